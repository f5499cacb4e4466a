"""The sweep: what makes lost messages and dead workers harmless. Run it every few seconds, anywhere, any number
of times: each step is a conditional write, so two sweeps at once do no harm.

1. Work whose lease ran out waits again, or ends if it was asked to stop or keeps killing its workers.
2. If anything waits, the workers are woken.
3. Old idempotency keys are forgotten.
4. Objects that no row names any more are deleted.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from app import queue
from app.db.models import ObjectCleanup
from app.db.session import read_session, write_session
from app.logging import first_line
from app.outages import is_database_away, is_database_behind, is_transient
from app.prometheus import LEASES_EXPIRED, OBJECTS_DELETED, SWEEP_LAST_SUCCESS, SWEEP_SECONDS
from app.repositories import cleanups, idempotency, leases
from app.repositories.leases import TakenBack
from app.retention import retain_once
from app.settings import Settings, get_settings
from app.storage import keys
from app.storage.store import ObjectStore

CLEANUPS_PER_SWEEP = 50
# How long a prefix is left alone after its objects could not be deleted.
PUT_OFF_SECONDS = 600.0
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
    # Prefixes that could not be cleaned and are looked at again some minutes later.
    put_off: list[str] = field(default_factory=list)


def sweep_once(settings: Settings | None = None) -> SweepReport:
    """Sweep once and return what was done."""
    settings = settings or get_settings()
    report = SweepReport()
    with write_session(settings) as session:
        report.expired = leases.take_back_expired(session, max_attempts=settings.max_attempts)
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
        _clean_each(settings, due, report)
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


def _clean_each(settings: Settings, due: Sequence[ObjectCleanup], report: SweepReport) -> None:
    """Clean what is due, and let neither an object that cannot be deleted nor a store that is away stop the rest."""
    try:
        store = ObjectStore.from_settings(settings)
    except OSError as error:
        log.warning("object_store_unavailable", error=first_line(error))
        return
    waiting, failed = deque(due), set[str]()
    while waiting:
        cleanup = waiting.popleft()
        prefix = cleanup.object_prefix
        try:
            deleted = clean(settings, store, cleanup)
        except Exception as error:
            if is_database_away(error) or is_database_behind(error):
                raise
            is_there = store.answers()
            if is_there and prefix not in failed:
                # Perhaps only since it failed: once more, after the others.
                failed.add(prefix)
                waiting.append(cleanup)
                continue
            trace = None if is_transient(error) else error
            log.warning("cleanup_failed", prefix=prefix, error=first_line(error), exc_info=trace)
            if not is_there:
                # The others would fare no better, and each could take a minute. The next sweep begins with this one.
                return
            # It is about this prefix, and the oldest would come first for ever.
            with write_session(settings) as session:
                cleanups.schedule(session, prefix, delay_seconds=PUT_OFF_SECONDS)
            report.put_off.append(prefix)
            continue
        report.objects_deleted += deleted
        OBJECTS_DELETED.inc(deleted)


def sweep_until(stopped: threading.Event, settings: Settings | None = None) -> None:
    """Sweep every `sweep_seconds`, and apply the retention every hour, until `stopped` is set."""
    settings = settings or get_settings()
    next_retention = 0.0
    while not stopped.is_set():
        began, outcome = time.monotonic(), "failed"
        try:
            sweep_once(settings)
            outcome = "done"
            SWEEP_LAST_SUCCESS.set_to_current_time()
        except Exception as error:
            # The database may be away for a while; the sweep has to outlive that.
            log.warning("sweep_failed", error=first_line(error), exc_info=None if is_transient(error) else error)
        SWEEP_SECONDS.labels(outcome).observe(time.monotonic() - began)
        if time.monotonic() >= next_retention:
            next_retention = time.monotonic() + _retain(settings)
        stopped.wait(settings.sweep_seconds)


def _retain(settings: Settings) -> float:
    """Apply the retention, and return after how many seconds to do so again."""
    try:
        retain_once(settings)
    except Exception as error:
        log.warning("retention_failed", error=first_line(error), exc_info=None if is_transient(error) else error)
        return RETENTION_RETRY_SECONDS
    return RETENTION_SECONDS


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
