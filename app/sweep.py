"""The sweep: what makes lost messages and dead workers harmless. Run it every few seconds, anywhere, any number
of times: each step is a conditional write, so two sweeps at once do no harm.

1. Work whose lease ran out waits again, or ends if it was asked to stop or keeps killing its workers.
2. If anything waits, the workers are woken.
3. Old idempotency keys are forgotten.
4. Objects that no row names any more are deleted.
"""

import threading
import time
from dataclasses import dataclass, field

import structlog

from app import queue
from app.db.models import ObjectCleanup
from app.db.session import read_session, write_session
from app.logging import first_line
from app.outages import is_transient
from app.prometheus import LEASES_EXPIRED, OBJECTS_DELETED, SWEEP_LAST_SUCCESS, SWEEP_SECONDS
from app.repositories import cleanups, idempotency, leases
from app.repositories.leases import TakenBack
from app.retention import retain_once
from app.settings import Settings, get_settings
from app.storage import keys
from app.storage.store import ObjectStore

CLEANUPS_PER_SWEEP = 50
RETENTION_SECONDS = 3600.0

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
        store = ObjectStore.from_settings(settings)
        report.objects_deleted = sum(clean(settings, store, cleanup) for cleanup in due)
        OBJECTS_DELETED.inc(report.objects_deleted)
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
            if time.monotonic() >= next_retention:
                retain_once(settings)
                next_retention = time.monotonic() + RETENTION_SECONDS
        except Exception as error:
            # The database or the store may be away for a while; the sweep has to outlive that.
            log.warning("sweep_failed", error=first_line(error), exc_info=None if is_transient(error) else error)
        SWEEP_SECONDS.labels(outcome).observe(time.monotonic() - began)
        stopped.wait(settings.sweep_seconds)


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
