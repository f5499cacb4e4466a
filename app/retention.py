"""Forget what has been kept for long enough. Run it every hour or so, anywhere, any number of times.

1. The checkpoints of jobs that failed long ago: a retry would start from the beginning.
2. Jobs that have been over for long, with everything that hangs on them; kept for ever unless a setting says so.
3. Cache entries that no job has used for long: the next job that wants one computes it.

Rows go at once, their objects with a later sweep.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from obstore.exceptions import BaseError

from app.db.session import read_session, write_session
from app.logging import first_line
from app.repositories import checkpoints, jobs
from app.settings import Settings, get_settings
from app.storage import keys
from app.storage.store import ObjectStore, StoredObject

# In one transaction: short enough that nobody waits for it.
BATCH = 100
# Nobody writes a file for longer than that.
_WRITING_SECONDS_AT_MOST = 24 * 3600.0

log = structlog.get_logger(__name__)


@dataclass
class RetentionReport:
    checkpoints_of_jobs: int = 0
    jobs: int = 0
    cache_entries: int = 0


def retain_once(settings: Settings | None = None) -> RetentionReport:
    """Forget once what the settings say has been kept for long enough, and return how much it was."""
    settings = settings or get_settings()
    report = RetentionReport()
    if settings.checkpoint_retention_days is not None:
        report.checkpoints_of_jobs = _forget_checkpoints(settings, settings.checkpoint_retention_days)
    if settings.job_retention_days is not None:
        report.jobs = _forget_jobs(settings, settings.job_retention_days)
    if settings.cache_retention_days is not None:
        report.cache_entries = _forget_cache_entries(settings, settings.cache_retention_days)
    if report != RetentionReport():
        log.info("retention", **vars(report))
    return report


def _forget_checkpoints(settings: Settings, days: float) -> int:
    count = 0
    while True:
        with write_session(settings) as session:
            job_ids = checkpoints.jobs_to_forget(session, days=days, limit=BATCH)
            for job_id in job_ids:
                checkpoints.drop_all(session, job_id)
        count += len(job_ids)
        if len(job_ids) < BATCH:
            return count


def _forget_jobs(settings: Settings, days: float) -> int:
    count = 0
    while True:
        with read_session(settings) as session:
            job_ids = jobs.finished_before(session, days=days, limit=BATCH)
        for job_id in job_ids:
            # One by one: each locks its row and looks again whether the job is over.
            with write_session(settings) as session:
                jobs.delete_terminal(session, job_id)
        count += len(job_ids)
        if len(job_ids) < BATCH:
            return count


def _forget_cache_entries(settings: Settings, days: float) -> int:
    """Delete the entries whose newest file is older than `days`; using an entry writes its index anew. What workers
    left half-written goes too: no row says where to look for it."""
    store = ObjectStore.from_settings(settings)
    for key in store.unfinished(keys.CACHE_ROOT, older_than_seconds=_WRITING_SECONDS_AT_MOST):
        _delete(store, [key])
    entries: dict[str, list[StoredObject]] = defaultdict(list)
    for stored in store.list(keys.CACHE_ROOT):
        entries[stored.key.rpartition("/")[0]].append(stored)
    oldest = datetime.now(UTC) - timedelta(days=days)
    old = [files for files in entries.values() if max(file.modified_at for file in files) < oldest]
    count = 0
    for files in old:
        # The index first: without it nobody takes the other files for an entry.
        paths = sorted((file.key for file in files), key=lambda key: not key.endswith("/" + keys.CACHE_INDEX))
        count += _delete(store, paths)
    return count


def _delete(store: ObjectStore, paths: Sequence[str]) -> bool:
    """Delete objects, the first before the others; one that cannot be deleted is told and keeps no other. Returns
    whether they are gone."""
    try:
        store.delete(paths[:1])
        store.delete(paths[1:])
    except (BaseError, OSError) as error:
        log.warning("cache_entry_not_deleted", key=paths[0], error=first_line(error))
        if not store.answers():
            raise
        return False
    return True
