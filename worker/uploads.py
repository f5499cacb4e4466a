"""Stores the engine's checkpoints and cache entries beside the run, from a thread of its own.

The engine and the reports on it go on while the object store is slow or away. What is to be stored is linked
aside at once, because the engine removes old checkpoints; of several waiting checkpoints only the newest and
the best matter. One that is being stored is stored to its end, however many come meanwhile: a store that takes longer
than the engine takes from one checkpoint to the next would else never hold one. For the same reason checkpoints and
cache entries take turns, in the order in which they came. An entry that could not be stored waits again: a tuned
teacher, which took hours, is in no checkpoint. Nothing here fails a run, except a full disk.

What the run said before a checkpoint is written before the checkpoint is recorded (`release`): a run that goes on
from there does not say it again. The same holds for a cache entry, which spares the next attempt the work.
"""

import os
import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from app.errors import LeaseLost
from app.repositories import checkpoints
from app.repositories.checkpoints import CheckpointFacts
from app.storage import keys
from worker import cache_store
from worker.distill.cache_keys import TUNED_TEACHERS
from worker.files import describe_files
from worker.last_word import leave_to_the_sweep
from worker.observation import checkpoint_upload
from worker.patience import DiskFull, StorageUnavailable, is_disk_full
from worker.stopping import WorkStopped
from worker.threads import logged_thread
from worker.work import EventQueue, Work

KEEP_CHECKPOINTS = 2

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Checkpoint:
    number: int
    facts: CheckpointFacts
    folder: Path


@dataclass(frozen=True)
class _CacheEntry:
    number: int
    kind: str
    key: str
    folder: Path


class _Superseded(Exception):
    """The store failed, and a newer checkpoint waits: this one is not worth asking it again."""


class Uploads:
    """Takes folders from the run and stores them, one at a time."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._outbox = work.folder / "outbox"
        # Waiting, oldest first: the newest, and before it the best where that is another.
        self._checkpoints: list[_Checkpoint] = []
        self._cache_entries: list[_CacheEntry] = []
        self._staged = 0
        # The number of the last one staged that may be stored.
        self._released = 0
        # What is being stored.
        self._current: _Checkpoint | _CacheEntry | None = None
        self._are_checkpoints_last = False
        self._is_closed = False
        self._changed = threading.Condition()
        # Set where the run cannot go on because of it.
        self.failure: DiskFull | None = None
        self._thread = logged_thread(self._store_all, name="uploads")
        self._thread.start()

    def add_checkpoint(self, facts: CheckpointFacts, folder: Path) -> None:
        """Store a complete checkpoint folder and record it, once released; what waits is dropped, but for the best."""
        staged = self._stage(folder, f"checkpoint-{facts.step}")
        if staged is None:
            return
        with self._changed:
            stale = [waiting for waiting in self._checkpoints if facts.is_best or not waiting.facts.is_best]
            kept = [waiting for waiting in self._checkpoints if waiting not in stale]
            self._checkpoints = [*kept, _Checkpoint(self._staged, facts, staged)]
        for checkpoint in stale:
            shutil.rmtree(checkpoint.folder, ignore_errors=True)

    def add_cache_entry(self, kind: str, key: str, folder: Path) -> None:
        """Store a cache entry for the next job on the same inputs, once released."""
        staged = self._stage(folder, f"{kind}-{key}")
        if staged is not None:
            with self._changed:
                self._cache_entries.append(_CacheEntry(self._staged, kind, key, staged))

    def release(self) -> None:
        """What the run said so far is written: what was added so far may be stored."""
        with self._changed:
            self._released = self._staged
            self._changed.notify_all()

    def put_checkpoints_last(self) -> None:
        """The run has ended well. Until that is written somebody may have to go on from a checkpoint all the same, but
        what other jobs can use comes first, and `settle` waits for that alone."""
        with self._changed:
            self._are_checkpoints_last = True

    def settle(self, seconds: float) -> bool:
        """Wait until everything released is stored, up to `seconds`, or until nobody wants it; True when it is."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while any(map(self._is_awaited, (self._current, self._first_released()))):
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive() or self._work.keeper.is_interrupted:
                    return False
                self._changed.wait(min(left, 0.5))
        return True

    def close(self) -> bool:
        """Store nothing more, and record nothing of what is being stored. Returns at once: True while the store still
        has a call in hand, which nothing can interrupt."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return self._current is not None

    def wait_until_over(self) -> None:
        """After `close`: wait for the call under way, for as long as the worker may."""
        while self._thread.is_alive() and (left := self._work.shutdown.seconds_left) > 0:
            self._thread.join(min(left, 0.5))

    def _stage(self, folder: Path, name: str) -> Path | None:
        self._staged += 1
        staged = self._outbox / f"{self._staged:06d}-{name}"
        try:
            shutil.copytree(folder, staged, copy_function=_link)
            if not folder.is_dir():  # it was removed meanwhile, so the copy may lack files
                raise FileNotFoundError(f"{folder} was removed while it was copied")
        except OSError as error:  # shutil.Error is one too
            if is_disk_full(error):
                self.failure = DiskFull(str(error))
            else:
                log.warning("upload_source_gone", folder=str(folder), error=str(error))
            shutil.rmtree(staged, ignore_errors=True)
            return None
        return staged

    def _store_all(self) -> None:
        while (task := self._next()) is not None:
            again: list[_CacheEntry] = []
            try:
                if isinstance(task, _Checkpoint):
                    self._store_checkpoint(task)
                else:
                    cache_store.store_entry(self._work, task.kind, task.key, task.folder, check=self._check)
            except LeaseLost:
                self._work.keeper.mark_lost()
                return
            except WorkStopped:
                return
            except _Superseded:
                log.warning("checkpoint_superseded", task=str(task))
            except DiskFull as error:
                self.failure = error
                return
            except StorageUnavailable as error:
                log.warning("upload_failed", task=str(task), error=str(error))
                if isinstance(task, _CacheEntry):
                    # This run does not make it anew. After what may be stored by now: perhaps only it is refused.
                    again = [replace(task, number=self._released)]
            except Exception:
                log.exception("upload_failed", task=str(task))
            finally:
                if not again:
                    shutil.rmtree(task.folder, ignore_errors=True)
                with self._changed:
                    self._cache_entries += again
                    self._current = None
                    self._changed.notify_all()

    def _next(self) -> _Checkpoint | _CacheEntry | None:
        with self._changed:
            while not self._is_closed:
                task = self._first_released()
                if task is not None:
                    self._checkpoints = [waiting for waiting in self._checkpoints if waiting is not task]
                    self._cache_entries = [waiting for waiting in self._cache_entries if waiting is not task]
                    self._current = task
                    return task
                self._changed.wait()
        return None

    def _first_released(self) -> _Checkpoint | _CacheEntry | None:
        waiting: list[_Checkpoint | _CacheEntry] = [*self._checkpoints, *self._cache_entries]
        return min((task for task in waiting if task.number <= self._released), key=self._turn, default=None)

    def _turn(self, task: _Checkpoint | _CacheEntry) -> tuple[bool, int]:
        if self._are_checkpoints_last:
            can_wait = isinstance(task, _Checkpoint)
        else:
            # A run that is stopped has little time left: first what costs more than minutes to make anew.
            is_cheap = isinstance(task, _CacheEntry) and task.kind != TUNED_TEACHERS
            can_wait = is_cheap and self._work.keeper.is_told_to_stop
        return can_wait, task.number

    def _is_awaited(self, task: _Checkpoint | _CacheEntry | None) -> bool:
        return task is not None and not (self._are_checkpoints_last and isinstance(task, _Checkpoint))

    def _store_checkpoint(self, checkpoint: _Checkpoint) -> None:
        """Objects first, then the row that names them, in one transaction with the end of older ones."""
        work, step = self._work, checkpoint.facts.step
        prefix = keys.job_checkpoint(work.claim.id, work.claim.run_token, step)
        files = describe_files(checkpoint.folder)
        size_bytes = sum(file["size_bytes"] for file in files)
        news = EventQueue(work.claim)
        news.append({"type": "checkpoint", "payload": {"step": step, "size_bytes": size_bytes}})

        def record(session: Session) -> None:
            checkpoints.record(session, work.claim, checkpoint.facts, object_prefix=prefix, files=files)
            checkpoints.drop_older(session, work.claim, keep=KEEP_CHECKPOINTS)
            news.write(session)

        try:
            with checkpoint_upload(step, size_bytes, not_wanted=(_Superseded, LeaseLost, WorkStopped)):
                check_again = self._check if checkpoint.facts.is_best else self._check_newest
                work.upload_folder(checkpoint.folder, prefix, files, check=self._check, check_again=check_again)
                # Once its files are stored, to pass it over would spare nothing.
                work.write(record, check=self._check)
        except Exception:
            # The numbers of checkpoints only grow: nobody stores this one again.
            leave_to_the_sweep(work.claim, work.settings, object_prefix=prefix)
            raise
        log.info("checkpoint_stored", step=step, size_bytes=size_bytes)

    def _check_newest(self) -> None:
        self._check()
        if any(waiting.number <= self._released for waiting in self._checkpoints):
            raise _Superseded

    def _check(self) -> None:
        self._work.keeper.check_until_deadline()
        if self._is_closed:
            raise WorkStopped


def _link(source: str, target: str) -> str:
    """The same file under another name: costs nothing and survives the removal of the first."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
    return target
