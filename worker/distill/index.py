"""Nearest neighbours by FAISS: exact, Euclidean, on one thread (its sums differ between thread counts)."""

import contextlib
from collections.abc import Iterator

import faiss
import numpy as np


class NeighborIndex:
    """Exact neighbours of points among `points` (rows, width) float32."""

    def __init__(self, points: np.ndarray) -> None:
        self._points = np.ascontiguousarray(points, np.float32)
        self._index = faiss.IndexFlatL2(self._points.shape[1])
        with _one_thread():
            self._index.add(self._points)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(queries, k) row numbers and Euclidean distances, nearest first."""
        with _one_thread():
            squared, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return rows.astype(np.int64), np.sqrt(np.maximum(squared, 0.0))

    def neighbors_of_each(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, k) neighbours and distances of every point, itself left out.

        A point's twins may push it off the first place, or out of its own list altogether, so it is
        looked for, not assumed.
        """
        rows, distances = self.search(self._points, k + 1)
        is_self = rows == np.arange(len(rows))[:, None]
        is_self[~is_self.any(1), -1] = True
        keep = ~is_self
        return rows[keep].reshape(-1, k), distances[keep].reshape(-1, k)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
