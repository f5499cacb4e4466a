"""Forget what has been kept for long enough. Run it every hour or so, anywhere, any number of times.

1. The checkpoints of jobs that failed long ago: a retry would start from the beginning.
2. Jobs that have been over for long, with everything that hangs on them; kept for ever unless a setting says so, and
   while a teacher made of the student is pending.
3. Cache entries that no job has used for long: the next job that wants one computes it. Of the others, files that no
   index names: their worker died before it could, or another was faster.
4. What workers that died left of asking whether the store takes objects.

Rows go at once, their objects with a later sweep.
"""

import json
import math
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from obstore.exceptions import BaseError

from app.budget import Budget
from app.db.session import read_session, write_session
from app.logging import first_line
from app.repositories import checkpoints, jobs
from app.settings import Settings, get_settings
from app.storage import keys
from app.storage.store import ObjectMissing, ObjectStore, StoredObject

# In one transaction: short enough that nobody waits for it.
BATCH = 100
# Nobody writes a file for longer than that, nor has written it for longer when the index names it.
_WRITING_SECONDS_AT_MOST = 24 * 3600.0

log = structlog.get_logger(__name__)


@dataclass
class RetentionReport:
    checkpoints_of_jobs: int = 0
    jobs: int = 0
    cache_entries: int = 0
    # Of entries that stay.
    cache_files: int = 0
    # The time was up before everything was forgotten.
    has_more: bool = False


def retain_once(
    settings: Settings | None = None, *, seconds: float = math.inf, stopped: threading.Event | None = None
) -> RetentionReport:
    """Forget what the settings say has been kept for long enough, and return how much it was.

    Stops once `seconds` are over or `stopped` is set, but not before something is forgotten: then `has_more` says that
    it should soon be called again. To list the cache, and then to delete from it, may each come on top of that.
    """
    settings = settings or get_settings()
    report = RetentionReport()
    budget = Budget(seconds, stopped or threading.Event())
    if settings.checkpoint_retention_days is not None:
        _forget_checkpoints(settings, settings.checkpoint_retention_days, budget, report)
    if settings.job_retention_days is not None and not report.has_more:
        _forget_jobs(settings, settings.job_retention_days, budget, report)
    if settings.cache_retention_days is not None and not report.has_more:
        _forget_cache_entries(settings, settings.cache_retention_days, budget, report)
    if not report.has_more and not budget.is_stopped:
        _forget_probes(settings)
    if report != RetentionReport():
        log.info("retention", **vars(report))
    return report


def _forget_checkpoints(settings: Settings, days: float, budget: Budget, report: RetentionReport) -> None:
    while True:
        with write_session(settings) as session:
            job_ids = checkpoints.jobs_to_forget(session, days=days, limit=BATCH)
            for job_id in job_ids:
                checkpoints.drop_all(session, job_id)
        report.checkpoints_of_jobs += len(job_ids)
        if len(job_ids) < BATCH:
            return
        if budget.is_used_up:
            report.has_more = True
            return


def _forget_jobs(settings: Settings, days: float, budget: Budget, report: RetentionReport) -> None:
    while True:
        with read_session(settings) as session:
            job_ids = jobs.deletable(session, days=days, limit=BATCH)
        for job_id in job_ids:
            # One by one: each locks its row and looks again whether the job may go.
            with write_session(settings) as session:
                result = jobs.delete_terminal(session, job_id)
            if result is not None and result.is_deleted:
                report.jobs += 1
            if budget.is_used_up:
                report.has_more = True
                return
        if len(job_ids) < BATCH:
            return


def _forget_cache_entries(settings: Settings, days: float, budget: Budget, report: RetentionReport) -> None:
    """Delete the entries whose newest file is older than `days`; using an entry writes its index anew. What workers
    left half-written goes too, and what they did not come to name: no row says where to look for it."""
    store = ObjectStore.from_settings(settings)
    for key in store.unfinished(keys.CACHE_ROOT, older_than_seconds=_WRITING_SECONDS_AT_MOST):
        _delete(store, [key])
    entries: dict[str, list[StoredObject]] = defaultdict(list)
    for stored in store.list(keys.CACHE_ROOT):
        if budget.is_stopped:
            return
        entries["/".join(stored.key.split("/")[:3])].append(stored)
    oldest = datetime.now(UTC) - timedelta(days=days)
    old, used = [], []
    for folder, files in entries.items():
        if max(file.modified_at for file in files) < oldest:
            old.append(files)
        else:
            used.append((folder, files))
    # In another order each time: those that cannot be deleted would else use up the time of the others in every call.
    random.shuffle(old)
    random.shuffle(used)
    # Only now: where it takes longer to list the cache than there is time, nothing would ever be deleted.
    budget = budget.again()
    for number, files in enumerate(old, 1):
        # The index first: without it nobody takes the other files for an entry.
        paths = sorted((file.key for file in files), key=lambda key: not key.endswith("/" + keys.CACHE_INDEX))
        report.cache_entries += _delete(store, paths)
        if budget.is_used_up:
            # Where none could be deleted, to list them all again would help nobody.
            report.has_more = number < len(old) and report.cache_entries > 0
            return
    for folder, files in used:
        if budget.is_used_up:
            return  # they are in nobody's way
        report.cache_files += _forget_unnamed(store, folder, files)


def _forget_unnamed(store: ObjectStore, folder: str, files: Sequence[StoredObject]) -> int:
    """Delete the old files of an entry in use that its index does not name; returns how many. Whoever is about to store
    and name the same one finds it gone, and computes it."""
    oldest = datetime.now(UTC) - timedelta(seconds=_WRITING_SECONDS_AT_MOST)
    index = keys.inside(folder, keys.CACHE_INDEX)
    old = [file.key for file in files if file.key != index and file.modified_at < oldest]
    if not old:
        return 0
    try:
        named = _read_index(store, index)
    except (BaseError, OSError) as error:
        log.warning("cache_index_not_read", key=index, error=first_line(error))
        if not store.answers():
            raise
        return 0
    if named is None:
        return 0
    return sum(_delete(store, [key]) for key in old if key.removeprefix(f"{folder}/") not in named)


def _read_index(store: ObjectStore, index: str) -> set[str] | None:
    """The files that an entry's index names, as they lie in its folder; None where it cannot be understood."""
    try:
        files = json.loads(store.get_bytes(index))["files"]
        return {keys.name_in_cache(file) for file in files}
    except ObjectMissing:
        return set()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _forget_probes(settings: Settings) -> None:
    store = ObjectStore.from_settings(settings)
    oldest = datetime.now(UTC) - timedelta(seconds=_WRITING_SECONDS_AT_MOST)
    left = [stored.key for stored in store.list(keys.PROBES) if stored.modified_at < oldest]
    for key in [*left, *store.unfinished(keys.PROBES, older_than_seconds=_WRITING_SECONDS_AT_MOST)]:
        _delete(store, [key])


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
