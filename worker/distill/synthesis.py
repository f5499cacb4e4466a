"""New points for the student: between neighbours on the map, inverted to input vectors, filtered.

Where rows are spliced (splicing.py) only the pairs of neighbours are drawn here.

docs/sage.md, "A round", steps 3 and 4: interpolation, `knn` inversion (a Gaussian-weighted mean of the
nearest real vectors on the map) and the `shift` lift. A point is kept as the rows and weights of that mean
and an anchor row: a tenth of the room of its vector, which is computed when it is asked for.
"""

import functools
from dataclasses import dataclass, fields

import numpy as np

from worker.distill.index import MapIndex
from worker.distill.projection import Projection
from worker.distill.rows import SyntheticRows, weighted_means
from worker.distill.selection import Region

_KEEP_DISTANCE_QUANTILE = 0.99
# What is typical of the rows is measured on so many of them at most.
_MEASURED_ROWS_AT_MOST = 20_000
# A draw that fails the filter is replaced by drawing again, this often at most.
_ATTEMPTS = 5
# Vectors of points and of their neighbours are held for so many at a time, whatever the number of points.
_CHUNK_POINTS = 4_096


@dataclass(frozen=True)
class Points:
    """Synthetic points before the teacher has seen them."""

    anchors: np.ndarray  # (points,) int64: the real row that lends its tokens
    sources: np.ndarray  # (points, k) int32: the real rows whose vectors are averaged
    weights: np.ndarray  # (points, k) float32: of that average, sum 1
    coordinates: np.ndarray  # (points, 2) float32: where on the map
    drawn: np.ndarray  # (points, 2) int64: the drawn row and the neighbour it was interpolated towards
    distances: np.ndarray  # (points,) float32: to the anchor, in input space

    def __len__(self) -> int:
        return len(self.anchors)

    def labelled(self, logits: np.ndarray, features: np.ndarray | None = None) -> SyntheticRows:
        return SyntheticRows(self.anchors, self.sources, self.weights, logits, features)

    def taken(self, which: np.ndarray) -> "Points":
        return Points(*(getattr(self, field.name)[which] for field in fields(Points)))


class Synthesizer:
    """Draws points, or pairs of neighbours, around the rows of a region; what does not change is computed once."""

    def __init__(self, projection: Projection, neighbors: int, rows: np.ndarray | None = None) -> None:
        """`rows`, ascending, are those that points may be made of; all of the projection's where none are named."""
        self.projection = projection
        self.rows = np.arange(len(projection.vectors)) if rows is None else rows
        self._index = MapIndex(projection.coordinates[self.rows])
        self.neighbors = min(neighbors, len(self.rows) - 1)

    @functools.cached_property  # as the next one: only points ask for it, and it looks at thousands of rows
    def bandwidth(self) -> float:
        """Of the inversion: the median distance of neighbours on the map."""
        _, _, distances = self._measured
        # Twins lie at distance zero; a bandwidth of zero would divide by it.
        return max(float(np.median(distances)), 1e-6)

    @functools.cached_property
    def keep_distance(self) -> float:
        """How far a real row is from the nearest other one, in input space, for 99 rows of 100; the nearest is looked
        for among the neighbours on the map, as for a synthetic point."""
        measured, nearby, _ = self._measured
        vectors = self.projection.vectors
        gaps = _distances(vectors[self.rows[measured]], vectors, self.rows[nearby]).min(1)
        return float(np.quantile(gaps, _KEEP_DISTANCE_QUANTILE))

    @functools.cached_property
    def _measured(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows,) numbers of rows to learn from what is typical, (rows, neighbours) those on the map, and how far."""
        count = len(self.rows)
        measured = np.unique(np.linspace(0, count - 1, min(count, _MEASURED_ROWS_AT_MOST)).astype(int))
        return measured, *self._index.neighbors_of(measured, self.neighbors)

    def draw(self, region: Region, count: int, generator: np.random.Generator) -> Points:
        """`count` points, or fewer where the filter refuses most of what the region offers."""
        kept: list[Points] = []
        missing = count
        for _ in range(_ATTEMPTS):
            points = self._interpolate(region, missing, generator)
            kept.append(points)
            missing -= len(points)
            if missing <= 0:
                break
        return _concatenate(kept)

    def draw_pairs(self, region: Region, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(count,) rows of the region, and for each one of its neighbours on the map, by the region's weights."""
        starts = region.draw(count, generator)
        weights = region.weights
        drawn = generator.integers(self.neighbors, size=count) if weights is None else generator.random(count)
        ends = np.empty_like(starts)
        for start in range(0, count, _CHUNK_POINTS):
            part = slice(start, start + _CHUNK_POINTS)
            nearby, _ = self._index.neighbors_of(np.searchsorted(self.rows, starts[part]), self.neighbors)
            nearby = self.rows[nearby]
            columns = drawn[part] if weights is None else _columns(weights[nearby], drawn[part])
            ends[part] = nearby[np.arange(len(nearby)), columns]
        return starts, ends

    def _interpolate(self, region: Region, count: int, generator: np.random.Generator) -> Points:
        """`count` points less those that lie too far from any real row."""
        starts, ends = self.draw_pairs(region, count, generator)
        shares = generator.random((count, 1)).astype(np.float32)
        parts = (slice(start, start + _CHUNK_POINTS) for start in range(0, max(count, 1), _CHUNK_POINTS))
        return _concatenate([self._between(starts[part], ends[part], shares[part]) for part in parts])

    def _between(self, starts: np.ndarray, ends: np.ndarray, shares: np.ndarray) -> Points:
        coordinates, vectors = self.projection.coordinates, self.projection.vectors
        on_map = coordinates[starts] + shares * (coordinates[ends] - coordinates[starts])
        sources, weights = self.invert(on_map)
        nearby = np.column_stack([starts, ends, sources])
        gaps = _distances(weighted_means(vectors, sources, weights), vectors, nearby)
        nearest = gaps.argmin(1)
        each = np.arange(len(nearby))
        points = Points(
            anchors=nearby[each, nearest],
            sources=sources.astype(np.int32),
            weights=weights,
            coordinates=on_map,
            drawn=np.column_stack([starts, ends]),
            distances=gaps[each, nearest],
        )
        return points.taken(points.distances <= self.keep_distance)  # what is not finite is not at most it

    def invert(self, on_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(points, k) the real rows whose mean is at `on_map` (points, 2), and their weights in it, float32."""
        found, distances = self._index.search(on_map, self.neighbors)
        # Less the nearest distance: the same weights, and no underflow to all zeros far from the data.
        exponents = -(distances**2 - distances[:, :1] ** 2) / (2 * self.bandwidth**2)
        weights = np.exp(exponents)
        return self.rows[found], weights / weights.sum(1, keepdims=True)


def _columns(weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(rows,) which of its columns each row gets, in proportion to its `weights` (rows, k); `shares` (rows,) are
    uniform below 1."""
    edges = np.cumsum(weights, axis=1)
    passed = (shares[:, None] * edges[:, -1:] >= edges).sum(1)
    return np.minimum(passed, weights.shape[1] - 1)  # a product may be rounded up to the last edge


def _distances(points: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(points, k) Euclidean distance of each point (points, width) to its own `rows` (points, k) of `vectors`."""
    distances = np.empty(rows.shape, np.float32)
    for start in range(0, len(points), _CHUNK_POINTS):
        part = slice(start, start + _CHUNK_POINTS)
        distances[part] = np.linalg.norm(vectors[rows[part]] - points[part, None], axis=2)
    return distances


def _concatenate(parts: list[Points]) -> Points:
    return Points(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Points)))
