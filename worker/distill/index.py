"""Nearest neighbours, exact and Euclidean: among vectors by FAISS, among points of the map by a k-d tree.

Both give the same bits whatever the machine's number of threads.
"""

import contextlib
from collections.abc import Iterator

import faiss
import numpy as np

# (queries, k) row numbers, int64, and distances, float32, nearest first.
Found = tuple[np.ndarray, np.ndarray]


class NeighborIndex:
    """Exact neighbours among `points` (rows, width) float32, by comparing with each of them.

    On one thread: the sums differ between thread counts.
    """

    def __init__(self, points: np.ndarray) -> None:
        self._points = np.ascontiguousarray(points, np.float32)
        self._index = faiss.IndexFlatL2(self._points.shape[1])
        with _one_thread():
            self._index.add(self._points)

    def search(self, queries: np.ndarray, k: int) -> Found:
        with _one_thread():
            squared, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return rows.astype(np.int64), np.sqrt(np.maximum(squared, 0.0))

    def neighbors_of_each(self, k: int) -> Found:
        """(rows, k) neighbours and distances of every point, itself left out."""
        rows, distances = self.search(self._points, k + 1)
        return _without_itself(rows, distances, np.arange(len(rows)))


class MapIndex:
    """Exact neighbours among the points of a map, (rows, 2): a query costs the logarithm of their number."""

    def __init__(self, points: np.ndarray) -> None:
        # It takes a third of a second to import, and only a run that projects has a map.
        from scipy.spatial import cKDTree

        self._points = points
        self._tree = cKDTree(points)

    def search(self, queries: np.ndarray, k: int) -> Found:
        distances, rows = self._tree.query(queries, k=[*range(1, k + 1)])
        return rows, distances.astype(np.float32)

    def neighbors_of(self, rows: np.ndarray, k: int) -> Found:
        """(len(rows), k) neighbours and distances of the points `rows`, themselves left out."""
        found, distances = self.search(self._points[rows], k + 1)
        return _without_itself(found, distances, rows)


def _without_itself(rows: np.ndarray, distances: np.ndarray, itself: np.ndarray) -> Found:
    """One column less. A point's twins may push it off the first place, or out of its own list altogether, so it is
    looked for, not assumed."""
    is_itself = rows == itself[:, None]
    is_itself[~is_itself.any(1), -1] = True
    shape = (len(rows), rows.shape[1] - 1)
    return rows[~is_itself].reshape(shape), distances[~is_itself].reshape(shape)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
