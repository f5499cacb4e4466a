"""UMAP of the pooled input vectors: computed once, stored, never recomputed by a resume.

The vectors come from the word table that the teacher came with, so they never change while a model learns; only the
losses on the map do. McInnes, Healy and Melville, "UMAP" (2018). Two dimensions as the SAGE paper is
reported to use.

The fit runs in a process of its own, beside the training that comes before its first use: importing and
compiling UMAP takes longer than fitting it, and its libraries reset the thread counts of whatever process
they are loaded into, which would change the last bits of every later training step.
"""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worker.distill.errors import OutOfMemory
from worker.distill.index import NeighborIndex
from worker.distill.parent import leave_only_with_parent

# A job's own seed would make every job fit its own map; one map serves all jobs on the same vectors.
_UMAP_SEED = 0
PROJECTION_FOLDER = "projection-"
_UMAP_NEIGHBORS = 15
_DIMENSIONS = 2
# UMAP's own choice above 10,000 rows. Below them it takes 500, for a trustworthiness of 0.686 instead of 0.684.
_UMAP_EPOCHS = 200
# From here on UMAP is fitted on a sample and the rest is placed by its nearest fitted rows.
_FIT_ROWS_AT_MOST = 20_000
_PLACING_NEIGHBORS = 5
_CHUNK_ROWS = 16_384
# One thread, of OpenBLAS too: a map that is fitted again after a resume on other cores is the same to the bit.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Projection:
    """The training rows twice: as input vectors and on the map. Row i is row i of the split."""

    vectors: np.ndarray  # (rows, width) float32
    coordinates: np.ndarray  # (rows, 2) float32


class ProjectionFit:
    """A fit under way in a child process, which dies with this one."""

    def __init__(self, vectors_file: Path, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=PROJECTION_FOLDER, dir=folder))
        self._errors = self._folder / "errors.txt"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.distill.projection", str(vectors_file), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | dict.fromkeys(_THREAD_VARIABLES, "1"),
            )

    def result(self, check_stop: Callable[[], None]) -> np.ndarray:
        """(rows, 2) the coordinates, once they are there; `check_stop` is called while waiting and may raise."""
        try:
            while self._process.poll() is None:
                check_stop()
                time.sleep(0.05)
            if self._process.returncode:
                check_stop()  # who was told to leave together with this one has not failed
            if self._process.returncode == -signal.SIGKILL:
                raise OutOfMemory(
                    "the process that lays the map was killed by the system, as where memory runs out: run on a worker "
                    "with more memory, or take a method without a map."
                )
            if self._process.returncode:
                tail = self._errors.read_text(encoding="utf-8", errors="replace")[-2_000:]
                raise RuntimeError(f"the projection ended with status {self._process.returncode}: {tail}")
            return np.load(self._folder / "coordinates.npy", allow_pickle=False)
        finally:
            self._process.kill()
            self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)


def fit_coordinates(vectors: np.ndarray) -> np.ndarray:
    """(rows, 2) float32 coordinates of `vectors` (rows, width).

    Too few rows for a neighbourhood graph (under 8) are laid out by their first two principal axes.
    """
    if len(vectors) < 8:
        return _principal_axes(vectors)
    if len(vectors) <= _FIT_ROWS_AT_MOST:
        return _umap(vectors)
    sample = np.sort(np.random.default_rng(_UMAP_SEED).permutation(len(vectors))[:_FIT_ROWS_AT_MOST])
    return _place(vectors, vectors[sample], _umap(vectors[sample]))


def _umap(vectors: np.ndarray) -> np.ndarray:
    # Importing UMAP costs seconds (numba): only a run that projects pays for it.
    import umap
    import umap.layouts

    # UMAP has these compiled anew in every process, which takes several times as long as to fit the map. Where numba
    # has a place for what else of UMAP it keeps, which is read at the import, it has one for them.
    for module, name in (
        (umap.umap_, "smooth_knn_dist"),
        (umap.umap_, "compute_membership_strengths"),
        (umap.layouts, "_nb_optimize_layout_euclidean_single_epoch"),
    ):
        with contextlib.suppress(AttributeError):  # another release of UMAP may call it otherwise
            getattr(module, name).enable_caching()
    neighbors = min(_UMAP_NEIGHBORS, len(vectors) - 1)
    with warnings.catch_warnings():
        # It warns that a seed costs parallelism; the seed is the point.
        warnings.filterwarnings("ignore", message="n_jobs value")
        # And that neighbours without an index place no new rows; nothing here asks it to.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        reducer = umap.UMAP(
            n_components=_DIMENSIONS,
            n_neighbors=neighbors,
            random_state=_UMAP_SEED,
            n_epochs=_UMAP_EPOCHS,
            precomputed_knn=_neighbors(vectors, neighbors),
            # The spectral start needs more rows than dimensions by a margin, and disconnects on duplicates.
            init="pca" if len(vectors) < 100 else "spectral",
        )
        return np.asarray(reducer.fit_transform(vectors), np.float32)


def _neighbors(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, None]:
    """(rows, count) nearest rows of each, itself the first, and how far they are.

    UMAP's own search among many rows is approximate, and is compiled first: that takes longer than this exact one.
    """
    rows, distances = NeighborIndex(vectors).neighbors_of_each(count - 1)
    itself = np.arange(len(vectors))[:, None]
    return np.hstack([itself, rows]), np.hstack([np.zeros(itself.shape, np.float32), distances]), None


def _place(vectors: np.ndarray, fitted: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Each row at the distance-weighted mean of its nearest fitted rows' coordinates."""
    index = NeighborIndex(fitted)
    placed = np.empty((len(vectors), _DIMENSIONS), np.float32)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        rows, distances = index.search(vectors[part], _PLACING_NEIGHBORS)
        weights = 1.0 / (distances + 1e-6)
        weights /= weights.sum(1, keepdims=True)
        placed[part] = np.einsum("rk,rkd->rd", weights, coordinates[rows])
    return placed


def _principal_axes(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    axes = (left * singular)[:, :_DIMENSIONS]
    return np.pad(axes, ((0, 0), (0, _DIMENSIONS - axes.shape[1]))).astype(np.float32)


def _fit(vectors_file: Path, folder: Path) -> None:
    vectors = np.load(vectors_file, mmap_mode="r", allow_pickle=False)
    np.save(folder / "coordinates.npy", fit_coordinates(vectors))


if __name__ == "__main__":
    leave_only_with_parent()
    os.nice(19)  # the training has the cores, this what it leaves over
    gc.disable()  # it ends with its map: what it imports need not be looked through for garbage again and again
    _fit(Path(sys.argv[1]), Path(sys.argv[2]))
