"""New points for the student: between neighbours on the map, inverted to input vectors, filtered.

SAGE as methods.md section 1.4 has it: interpolation, `knn` inversion (a Gaussian-weighted mean of the
nearest real vectors on the map) and the `shift` lift. A point is stored as an anchor row and one vector.
"""

from dataclasses import dataclass

import numpy as np

from worker.distill.index import NeighborIndex
from worker.distill.projection import Projection
from worker.distill.selection import Region

_KEEP_DISTANCE_QUANTILE = 0.99
# A draw that fails the filter is replaced by drawing again, this often at most.
_ATTEMPTS = 5
# Gathering neighbours' vectors takes points x k x width floats: bounded, whatever the number of points.
_CHUNK_POINTS = 4_096


@dataclass(frozen=True)
class Points:
    """Synthetic points before the teacher has seen them."""

    anchors: np.ndarray  # (points,) int64: the real row that lends its tokens
    shifts: np.ndarray  # (points, width) float32: the point less the anchor's vector
    coordinates: np.ndarray  # (points, 2) float32: where on the map
    drawn: np.ndarray  # (points, 2) int64: the drawn row and the neighbour it was interpolated towards


class Synthesizer:
    """Draws points around the rows of a region; everything that does not change is computed once."""

    def __init__(self, projection: Projection, neighbors: int) -> None:
        self.projection = projection
        self._index = NeighborIndex(projection.coordinates)
        self.neighbors, distances = self._index.neighbors_of_each(min(neighbors, len(projection.vectors) - 1))
        # Twins lie at distance zero; a bandwidth of zero would divide by it.
        self.bandwidth = max(float(np.median(distances)), 1e-6)
        self._keep_distance = self._typical_distance()

    def draw(self, region: Region, count: int, generator: np.random.Generator) -> Points:
        """`count` points, or fewer where the filter refuses most of what the region offers."""
        kept: list[Points] = []
        missing = count
        for _ in range(_ATTEMPTS):
            if missing <= 0:
                break
            points = self._filter(self._interpolate(region, missing, generator))
            kept.append(points)
            missing -= len(points.anchors)
        return _concatenate(kept, self.projection)

    def _interpolate(self, region: Region, count: int, generator: np.random.Generator) -> Points:
        starts = region.draw(count, generator)
        columns = generator.integers(self.neighbors.shape[1], size=count)
        ends = self.neighbors[starts, columns]
        share = generator.random((count, 1)).astype(np.float32)
        coordinates = self.projection.coordinates
        on_map = coordinates[starts] + share * (coordinates[ends] - coordinates[starts])
        vectors, candidates = self.invert(on_map)
        anchors = self._nearest(vectors, np.column_stack([starts, ends, candidates]))
        return Points(
            anchors=anchors,
            shifts=vectors - self.projection.vectors[anchors],
            coordinates=on_map,
            drawn=np.column_stack([starts, ends]),
        )

    def invert(self, on_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(points, width) input vectors of `on_map` (points, 2), and the real rows (points, k) they are made of."""
        rows, distances = self._index.search(on_map, self.neighbors.shape[1])
        # Less the nearest distance: the same weights, and no underflow to all zeros far from the data.
        exponents = -(distances**2 - distances[:, :1] ** 2) / (2 * self.bandwidth**2)
        weights = np.exp(exponents)
        weights /= weights.sum(1, keepdims=True)
        vectors = np.empty((len(rows), self.projection.vectors.shape[1]), np.float32)
        for start in range(0, len(rows), _CHUNK_POINTS):
            part = slice(start, start + _CHUNK_POINTS)
            vectors[part] = np.einsum("pk,pkd->pd", weights[part], self.projection.vectors[rows[part]])
        return vectors, rows

    def _nearest(self, vectors: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(points,) of each point's candidates (points, c) the one nearest in input space."""
        nearest = _distances(vectors, self.projection.vectors, candidates).argmin(1)
        return candidates[np.arange(len(candidates)), nearest]

    def _filter(self, points: Points) -> Points:
        keep = np.isfinite(points.shifts).all(1)
        keep &= np.linalg.norm(points.shifts, axis=1) <= self._keep_distance
        return Points(points.anchors[keep], points.shifts[keep], points.coordinates[keep], points.drawn[keep])

    def _typical_distance(self) -> float:
        """How far a real row is from the nearest other one, in input space, for 99 rows of 100.

        The nearest is looked for among the neighbours on the map, as for a synthetic point.
        """
        vectors = self.projection.vectors
        gaps = _distances(vectors, vectors, self.neighbors).min(1)
        return float(np.quantile(gaps, _KEEP_DISTANCE_QUANTILE))


def _distances(points: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(points, k) Euclidean distance of each point (points, width) to its own `rows` (points, k) of `vectors`."""
    distances = np.empty(rows.shape, np.float32)
    for start in range(0, len(points), _CHUNK_POINTS):
        part = slice(start, start + _CHUNK_POINTS)
        distances[part] = np.linalg.norm(vectors[rows[part]] - points[part, None], axis=2)
    return distances


def _concatenate(parts: list[Points], projection: Projection) -> Points:
    if not parts:
        width = projection.vectors.shape[1]
        empty = np.empty(0, np.int64)
        return Points(empty, np.empty((0, width), np.float32), np.empty((0, 2), np.float32), np.empty((0, 2), np.int64))
    return Points(
        np.concatenate([part.anchors for part in parts]),
        np.concatenate([part.shifts for part in parts]),
        np.concatenate([part.coordinates for part in parts]),
        np.concatenate([part.drawn for part in parts]),
    )
