"""One embedded system per home folder: the lock, which also says where the one that holds it serves."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK_FILE = "up.lock"


class HomeTaken(Exception):
    """Another embedded system holds the home; `address` is where it serves, once it does."""

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self.address = address


class HomeLock:
    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, address: str) -> None:
        # Written in place: the lock belongs to this very file, so it must not be replaced by another.
        self._path.write_text(json.dumps({"pid": os.getpid(), "address": address}))


@contextlib.contextmanager
def home_lock(home: Path) -> Iterator[HomeLock]:
    """Hold the home while the block lasts. Raises HomeTaken where another process does."""
    path = home / LOCK_FILE
    with path.open("a") as file:
        if not _lock_soon(file):
            raise HomeTaken(running_address(home))
        path.write_text("")  # what one that was killed left there
        try:
            yield HomeLock(path)
        finally:
            path.write_text("")


def _lock_soon(file: IO[str]) -> bool:
    """Lock it for this process alone; False where it is held."""
    # Those below hold it too, for as long as it takes to ask.
    for pause_seconds in [*[0.01] * 30, 0.0]:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_seconds)
        else:
            return True
    return False


def is_held(home: Path) -> bool:
    """Whether an embedded system has this home, whether or not it serves yet."""
    try:
        with (home / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def running_address(home: Path) -> str | None:
    """The address at which an embedded system serves this home folder now, if one does."""
    try:
        with (home / LOCK_FILE).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError, KeyError):
                    return str(json.load(file)["address"])
    except FileNotFoundError:
        pass
    return None
