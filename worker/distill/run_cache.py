"""The run's own copy of the cache, RUN_DIR/cache/{kind}/{key}/: what other jobs left is found there, and what this run
adds is announced, so that the worker keeps it for those to come."""

import os
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from worker.distill.events import EventLog
from worker.distill.run_folder import CACHE


class RunCache:
    def __init__(self, run_folder: Path, events: EventLog) -> None:
        self._run_folder = run_folder
        self._folder = run_folder / CACHE
        self._events = events

    def find(self, kind: str, key: str, file: str) -> Path | None:
        path = self._folder / kind / key / file
        return path if path.exists() else None

    def keep(self, kind: str, key: str, file: str, arrays: dict[str, np.ndarray]) -> Path:
        """Write the arrays to the entry's `file`, for this run alone; returns its path. After a kill it is whole or not
        there."""
        (self._folder / kind).mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=self._folder / kind))
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, aside / file)
        kept = self._folder / kind / key / file
        kept.parent.mkdir(exist_ok=True)
        os.replace(aside / file, kept)
        aside.rmdir()
        return kept

    def share(self, kind: str, key: str, file: str, arrays: dict[str, np.ndarray]) -> Path:
        """`keep` it, and announce the entry for jobs to come."""
        kept = self.keep(kind, key, file, arrays)
        self._events.emit("cache", kind=kind, key=key, path=str(kept.parent.relative_to(self._run_folder)))
        return kept
