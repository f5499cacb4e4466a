"""Where the student is weak: losses smoothed over the map, and the draw of anchors from the worst region."""

from dataclasses import dataclass

import numpy as np

from worker.distill.index import MapIndex

# Neighbours of so many rows are held at a time, whatever the number of rows.
_CHUNK_ROWS = 65_536
# A row of which the student knows all can still be drawn, where nothing else is left.
_LEAST_LOSS = 1e-9


@dataclass(frozen=True)
class Region:
    """A set of rows and the chance of each to be drawn."""

    rows: np.ndarray  # (region,) int64
    probabilities: np.ndarray  # (region,), sums to 1
    # (split rows,) above 0, in proportion to which one of a row's neighbours is drawn; None: they are alike.
    weights: np.ndarray | None = None

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.choice(self.rows, size=count, p=self.probabilities)


def smooth(losses: np.ndarray, scored: np.ndarray, coordinates: np.ndarray, neighbors: int) -> np.ndarray:
    """(rows,) the mean loss around each row of the map: a region, not an outlier.

    `losses` (scored,) are those of the rows that lie at `scored` (scored, 2); a row gets the mean over the
    `neighbors` + 1 of them that are nearest to it by `coordinates` (rows, 2), itself among them where it was scored.
    """
    index = MapIndex(scored)
    count = min(neighbors + 1, len(scored))
    smoothed = np.empty(len(coordinates), np.float32)
    for start in range(0, len(coordinates), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        nearest, _ = index.search(coordinates[part], count)
        smoothed[part] = losses[nearest].mean(1)
    return smoothed


def high_loss_region(smoothed: np.ndarray, quantile: float) -> Region:
    """The `quantile` share of rows of highest smoothed loss, drawn in proportion to it."""
    count = max(1, round(quantile * len(smoothed)))
    rows = highest(smoothed, count)
    weights = np.maximum(smoothed[rows].astype(np.float64), 0.0)
    if weights.sum() <= 0:  # a student without any loss: every row is as good
        weights = np.ones(count)
    return Region(rows, weights / weights.sum())


def row_region(losses: np.ndarray) -> Region:
    """The rows whose loss is known, drawn in proportion to it, and so are the neighbours of each.

    `losses` (split rows,) are NaN where they are not known: such a neighbour counts as the others in the mean.
    """
    rows = np.flatnonzero(np.isfinite(losses))
    weights = np.maximum(np.where(np.isfinite(losses), losses, losses[rows].mean()).astype(np.float64), _LEAST_LOSS)
    return Region(rows, weights[rows] / weights[rows].sum(), weights)


def highest(losses: np.ndarray, count: int) -> np.ndarray:
    """(count,) places of the highest of `losses`, ascending; of equal ones the first."""
    return np.sort(np.argsort(-losses, kind="stable")[:count])


def uniform_region(rows: np.ndarray) -> Region:
    """Every one of the `rows` alike: the control for what targeting adds."""
    return Region(rows, np.full(len(rows), 1.0 / len(rows)))


def loss_mass(smoothed: np.ndarray, region: Region) -> float:
    """The mean smoothed loss in the region: what rounds of synthesis are there to shrink."""
    return float(smoothed[region.rows].mean())
