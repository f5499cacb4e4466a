"""Where a run's projection comes from: its checkpoint, another job's, or a fit beside the training."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from worker.distill.cache_keys import PROJECTIONS
from worker.distill.projection import PROJECTION_FOLDER, ProjectionFit
from worker.distill.run_cache import RunCache


class Coordinates:
    """The (rows, 2) coordinates of one run: `value` once they are known."""

    def __init__(
        self,
        folder: Path,
        cache: RunCache,
        key: str,
        *,
        tokens_sha256: str,
        resumed: np.ndarray | None,
        is_resumed: bool,
    ) -> None:
        """`tokens_sha256` is of the dataset; `resumed` what the checkpoint has, if the run `is_resumed` from one."""
        self._folder = folder
        self._cache = cache
        self._key = key
        self._file = f"coordinates-{tokens_sha256[:16]}.safetensors"
        self._fit: ProjectionFit | None = None
        for stale in folder.glob(f"{PROJECTION_FOLDER}*"):  # of a process that was killed
            shutil.rmtree(stale)
        self.value = resumed
        # A run that has begun without a map lays its own again, to the same bits where it began: one that came into the
        # cache meanwhile may be another machine's. The fit costs seconds, mostly beside the training; with the other
        # map the run would be exact no more, at none of its resumes.
        found = None if is_resumed else cache.find(PROJECTIONS, key, self._file)
        if found is not None:
            self.value = load_file(found)["coordinates"]

    def start(self, vectors_file: Path) -> None:
        """Begin the fit of the vectors in the file beside what comes before its first use, if it is needed."""
        if self.value is None:
            self._fit = ProjectionFit(vectors_file, self._folder)

    def wait(self, check_stop: Callable[[], None]) -> None:
        """Have the fit's result in `value`, and in the cache for the jobs to come."""
        if self.value is None:
            assert self._fit is not None, "start() comes before wait()"
            value = self._fit.result(check_stop)
            self._cache.share(PROJECTIONS, self._key, self._file, {"coordinates": value})
            self.value = value
