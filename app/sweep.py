"""The sweep: what makes lost messages and dead workers harmless. Run it every few seconds, anywhere, any number
of times: each step is a conditional write, so two sweeps at once do no harm.

1. Work whose lease ran out waits again, or ends if it was asked to stop or keeps killing its workers.
2. If anything waits, the workers are woken.
3. Old idempotency keys are forgotten.
4. Objects that no row names any more are deleted, as far as the time allows.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import structlog

from app import queue
from app.budget import Budget
from app.db.models import ObjectCleanup
from app.db.session import CONNECT_SECONDS, read_session, write_session
from app.logging import first_line
from app.outages import is_connection_lost, is_database_away, is_database_behind, is_transient
from app.prometheus import LEASES_EXPIRED, OBJECTS_DELETED, SWEEP_LAST_SUCCESS, SWEEP_SECONDS
from app.repositories import cleanups, idempotency, leases
from app.repositories.leases import TakenBack
from app.retention import retain_once
from app.settings import Settings, get_settings
from app.storage import keys
from app.storage.store import ObjectStore

CLEANUPS_PER_SWEEP = 50
# What takes longer goes on with the next sweep: dead workers' jobs do not wait for a slow store or a long backlog.
CLEANING_SECONDS = 10.0
RETAINING_SECONDS = 10.0
# How long a prefix is left alone after its objects could not be deleted: twice, or once and there was no time to try
# again. Beyond `cleanup_delay_seconds`, which pass before whatever is due is looked at.
PUT_OFF_SECONDS = 600.0
AGAIN_SECONDS = 30.0
RETENTION_SECONDS = 3600.0
# After one that failed: it may have to list the whole cache.
RETENTION_RETRY_SECONDS = 300.0

log = structlog.get_logger(__name__)


@dataclass
class SweepReport:
    expired: TakenBack = field(default_factory=TakenBack)
    # Rows that a worker could claim.
    waiting: int = 0
    # Whether the workers were told so.
    woke: bool = False
    keys_dropped: int = 0
    objects_deleted: int = 0
    # Prefixes that could not be cleaned and are looked at again later.
    put_off: list[str] = field(default_factory=list)


class Grace:
    """The time in which leases that ran out are left to their workers: from when the database was away, or may have
    been, or time has leapt, until it has taken writes for `seconds`.

    Nobody could renew meanwhile. Without it the sweep, which asks as often as they do, would take the work of all of
    them away in the moment that the database is back.
    """

    def __init__(self, seconds: float, *, has_begun: bool) -> None:
        self._seconds = seconds
        self._answers_since = None if has_begun else -math.inf

    @classmethod
    def at_start(cls, settings: Settings) -> Self:
        """That of a sweep which has just been started, maybe together with the database. Not in embedded mode: there
        the database is a file, and the workers of before ended with the process that is started again."""
        return cls(2 * settings.heartbeat_seconds + CONNECT_SECONDS, has_begun=not settings.embedded)

    @property
    def is_over(self) -> bool:
        return self._answers_since is not None and time.monotonic() - self._answers_since >= self._seconds

    def begin(self) -> None:
        """Begin anew: the database is away, or time has leapt."""
        self._answers_since = None

    def hear_answer(self) -> None:
        """The database has taken a write."""
        if self._answers_since is None:
            self._answers_since = time.monotonic()
            log.info("leases_left_alone", seconds=self._seconds)


def sweep_once(
    settings: Settings | None = None, *, grace: Grace | None = None, stopped: threading.Event | None = None
) -> SweepReport:
    """Sweep once and return what was done. No lease is taken back during a `grace`, and once `stopped` is set the
    deleting ends early."""
    settings = settings or get_settings()
    grace = grace or Grace(0.0, has_begun=False)
    report = SweepReport()
    try:
        with write_session(settings) as session:
            if grace.is_over:
                report.expired = leases.take_back_expired(session, max_attempts=settings.max_attempts)
            else:
                # A server that only reads, which was demoted perhaps, is no better than none: by what it says nothing
                # may be deleted either.
                leases.ask_whether_written(session)
    except Exception as error:
        if is_database_away(error):
            grace.begin()
        raise
    grace.hear_answer()
    _log_expired(report.expired)
    with read_session(settings) as session:
        report.waiting = leases.count_waiting(session)
        old_keys = idempotency.has_old(session, hours=settings.idempotency_hours)
        due = cleanups.due(session, settle_seconds=settings.cleanup_delay_seconds, limit=CLEANUPS_PER_SWEEP)
    if report.waiting:
        report.woke = queue.wake(settings, waiting=report.waiting)
    if old_keys:
        with write_session(settings) as session:
            report.keys_dropped = idempotency.drop_old(session, hours=settings.idempotency_hours)
    if due:
        _clean_each(settings, due, Budget(CLEANING_SECONDS, stopped or threading.Event()), report)
    return report


def clean(settings: Settings, store: ObjectStore, cleanup: ObjectCleanup) -> int:
    """Delete the objects under the cleanup's prefix that no row names, and return how many there were.

    The store is listed before the rows are read: whoever wrote a listed object had its token by then, so the
    rows read afterwards name the object, or its writer's token, or the object is nobody's.
    """
    prefix = cleanup.object_prefix
    found = [*(stored.key for stored in store.list(prefix)), *store.unfinished(prefix)]
    with read_session(settings) as session:
        named = cleanups.named_under(session, prefix)
    orphans = [key for key in found if not any(keys.is_under(key, name) for name in named)]
    store.delete(orphans)
    with write_session(settings) as session:
        cleanups.done(session, cleanup)
    if orphans:
        log.info("objects_deleted", prefix=prefix, count=len(orphans))
    return len(orphans)


def _clean_each(settings: Settings, due: Sequence[ObjectCleanup], budget: Budget, report: SweepReport) -> None:
    """Clean what is due, and let neither an object that cannot be deleted nor a store that is away stop the rest. What
    there is no time for stays due."""
    try:
        store = ObjectStore.from_settings(settings)
    except OSError as error:
        log.warning("object_store_unavailable", error=first_line(error))
        return
    waiting, failed = deque(due), dict[str, Exception]()
    while waiting:
        cleanup = waiting.popleft()
        prefix = cleanup.object_prefix
        try:
            deleted = clean(settings, store, cleanup)
        except Exception as error:
            if is_database_away(error) or is_database_behind(error):
                raise
            if not store.answers():
                # The others would fare no better, and each could take a minute. The next sweep begins with this one.
                _tell_failure(prefix, error)
                return
            if prefix in failed:
                del failed[prefix]
                _put_off(settings, prefix, error, report, seconds=PUT_OFF_SECONDS)
            else:
                # The store is there, perhaps only since it failed: once more, after the others.
                failed[prefix] = error
                waiting.append(cleanup)
        else:
            failed.pop(prefix, None)
            report.objects_deleted += deleted
            OBJECTS_DELETED.inc(deleted)
        if budget.is_used_up:
            break
    for prefix, failure in failed.items():  # which there was no time to try once more
        _put_off(settings, prefix, failure, report, seconds=AGAIN_SECONDS)


def _put_off(settings: Settings, prefix: str, error: Exception, report: SweepReport, *, seconds: float) -> None:
    """It is about this prefix, and the oldest would come first for ever."""
    _tell_failure(prefix, error)
    with write_session(settings) as session:
        cleanups.schedule(session, prefix, delay_seconds=seconds)
    report.put_off.append(prefix)


def _tell_failure(prefix: str, error: Exception) -> None:
    trace = None if is_transient(error) else error
    log.warning("cleanup_failed", prefix=prefix, error=first_line(error), exc_info=trace)


def sweep_until(stopped: threading.Event, settings: Settings | None = None) -> None:
    """Sweep every `sweep_seconds`, and apply the retention every hour, until `stopped` is set."""
    settings = settings or get_settings()
    grace = Grace.at_start(settings)
    next_retention = 0.0
    lead, overslept = _wall_clock_lead(), 0.0
    while not stopped.is_set():
        last_lead, lead = lead, _wall_clock_lead()
        leapt = max(lead - last_lead, overslept)
        if leapt > settings.heartbeat_seconds:
            # The machine was suspended, with its workers perhaps, or its clock was set. Or all that ran on it was
            # frozen, while its clocks went on.
            log.warning("time_leapt", seconds=round(leapt, 1))
            grace.begin()
        began, outcome = time.monotonic(), "failed"
        try:
            sweep_once(settings, grace=grace, stopped=stopped)
            outcome = "done"
            SWEEP_LAST_SUCCESS.set_to_current_time()
        except Exception as error:
            # The database may be away for a while; the sweep has to outlive that.
            if is_connection_lost(error):
                grace.begin()
            log.warning("sweep_failed", error=first_line(error), exc_info=None if is_transient(error) else error)
        SWEEP_SECONDS.labels(outcome).observe(time.monotonic() - began)
        if time.monotonic() >= next_retention and not stopped.is_set():
            next_retention = time.monotonic() + _retain(settings, stopped, grace)
        waits_since = time.monotonic()
        stopped.wait(settings.sweep_seconds)
        overslept = time.monotonic() - waits_since - settings.sweep_seconds


def _wall_clock_lead() -> float:
    """By how much the clock that leases run out by is ahead of the one that the waits of sweep and workers go by, which
    stands still while the machine is suspended."""
    return time.time() - time.monotonic()


def _retain(settings: Settings, stopped: threading.Event, grace: Grace) -> float:
    """Apply the retention, and return after how many seconds to do so again."""
    try:
        report = retain_once(settings, seconds=RETAINING_SECONDS, stopped=stopped)
    except Exception as error:
        if is_connection_lost(error):
            grace.begin()
        log.warning("retention_failed", error=first_line(error), exc_info=None if is_transient(error) else error)
        return RETENTION_RETRY_SECONDS
    # With more to do after the next sweep.
    return 0.0 if report.has_more else RETENTION_SECONDS


class SweepThread(threading.Thread):
    """`sweep_until` in a thread of the API's process, for the embedded mode."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(name="sweep", daemon=True)
        self._settings = settings or get_settings()
        self._stopped = threading.Event()

    def run(self) -> None:
        sweep_until(self._stopped, self._settings)

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Stop after the sweep that is under way."""
        self._stopped.set()
        self.join(timeout_seconds)


def _log_expired(expired: TakenBack) -> None:
    for outcome in ("requeued", "cancelled", "paused", "failed"):
        for kind, row_id in getattr(expired, outcome):
            log.warning("lease_expired", kind=kind, id=row_id, outcome=outcome)
            LEASES_EXPIRED.labels(kind, outcome).inc()
