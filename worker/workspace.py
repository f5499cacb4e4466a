"""Run folders: one per claim, locked while its worker lives, removed with it or by the next worker."""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from app.domain.ids import is_id
from app.domain.leases import Claim

# As app.domain.ids.new_run_token makes them.
_RUN_TOKEN = re.compile(r"[0-9a-f]{24}")

log = structlog.get_logger(__name__)


@contextmanager
def run_folder(work_dir: Path, claim: Claim) -> Iterator[Path]:
    """An empty folder WORK_DIR/ID/RUN_TOKEN for the block, gone afterwards whatever happens."""
    folder = work_dir / claim.id / claim.run_token
    # Locked before the folder exists, so that no other worker takes it for a dead run's. The lock ends with
    # this process, however it ends.
    lock = _lock(_lock_path(folder))
    if lock is None:
        raise RuntimeError(f"{folder} is in use by another worker, though its run token is new")
    try:
        folder.mkdir()
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def remove_dead_runs(work_dir: Path) -> int:
    """Remove the folders of workers that died; returns how many there were.

    Whatever else lies in `work_dir` is not touched: it may be a home, or a disk that others use too.
    """
    removed = 0
    for path in sorted(_run_folders(work_dir)):
        lock = _lock(_lock_path(path))
        if lock is None:
            continue
        _remove(path)
        os.close(lock)
        removed += 1
    if removed:
        log.info("dead_runs_removed", count=removed, work_dir=str(work_dir))
    return removed


def _run_folders(work_dir: Path) -> set[Path]:
    """WORK_DIR/ID/RUN_TOKEN of every run that left its folder there, or its lock."""
    found = {_folder_of(path) for row in work_dir.glob("*_*") if is_id(row.name) for path in row.glob("*")}
    return {path for path in found if _RUN_TOKEN.fullmatch(path.name) and (path.is_dir() or not path.exists())}


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _folder_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".lock"))


def _lock(path: Path) -> int | None:
    """An open file that holds the lock, or None when another process does."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # the last run beside it has just removed the folder
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        # Whoever held it before may have removed the file: then this lock guards nothing.
        try:
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _remove(folder: Path) -> None:
    # An engine that is just dying may still write for a moment.
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.1)
    else:
        log.warning("run_folder_not_removed", folder=str(folder))
    with contextlib.suppress(OSError):  # what stays is a dead run's for the next worker
        _lock_path(folder).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another run's folder may be beside it
        folder.parent.rmdir()
