"""What is known of rows beside their text: what a model says to them, and how those were made that no text has."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

# What is computed of logits takes several times their memory, which is much where there are many classes.
_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Predictions:
    """What a model says to the rows of a split."""

    logits: np.ndarray  # (rows, classes) float32
    features: np.ndarray | None  # (rows, width) float32: what its last linear layer reads, where somebody needs them
    classifier: np.ndarray | None = None  # (classes, width) float32 that layer's weights, beside the features

    def of(self, rows: np.ndarray) -> "Predictions":
        """What it says to these `rows`, ascending and each once."""
        if len(rows) == len(self.logits):
            return self
        features = None if self.features is None else self.features[rows]
        return Predictions(self.logits[rows], features, self.classifier)


@dataclass(frozen=True)
class SyntheticRows:
    """Rows that no training row is: an anchor's tokens, changed, all rows of a round in the same way.

    Shifted: its token vectors are moved so that their mean is a point, the weighted mean of the pooled vectors of real
    rows. Spliced: a run of its words is another row's.
    """

    anchors: np.ndarray  # (synthetic,) int64 row of the training split
    sources: np.ndarray | None  # (synthetic, k) int32 rows of the training split, where rows are shifted
    weights: np.ndarray | None  # (synthetic, k) float32, sum 1
    teacher_logits: np.ndarray  # (synthetic, classes) float32
    teacher_features: np.ndarray | None = None  # (synthetic, width) float32, where the real rows have them
    # (synthetic, 4) int64, where rows are spliced: the row that lends its words, the first of them among its ordinary
    # tokens, the place of that one among the anchor's, and how many there are.
    splices: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.anchors)

    def arrays(self) -> dict[str, np.ndarray]:
        """Those that rows made in this way have, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in named.items() if array is not None}

    def taken(self, which: np.ndarray) -> "SyntheticRows":
        """Those numbered `which`, in that order."""
        return replace(self, **{name: array[which] for name, array in self.arrays().items()})

    @staticmethod
    def joined(parts: "list[SyntheticRows]") -> "SyntheticRows":
        """One after the other; all are made in the same way."""
        first, *_ = arrays = [part.arrays() for part in parts]
        return replace(parts[0], **{name: np.concatenate([each[name] for each in arrays]) for name in first})

    def shifts(self, which: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """(which, width) the points numbered `which` less their anchors' pooled `vectors` (rows, width)."""
        assert self.sources is not None, "spliced rows are not moved"
        assert self.weights is not None
        points = weighted_means(vectors, self.sources[which], self.weights[which])
        return points - vectors[self.anchors[which]]


def weighted_means(vectors: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(points, width) of `vectors` (rows, width) the mean over each point's `rows`, by its `weights` (points, k)."""
    return np.einsum("pk,pkd->pd", weights, vectors[rows])


def parts_by_logits(rows: int, classes: int) -> Iterator[slice]:
    """So many rows in parts, at least one, for what is computed of their logits (rows, classes)."""
    at_once = max(1, _LOGITS_AT_ONCE // classes)
    for start in range(0, max(rows, 1), at_once):
        yield slice(start, start + at_once)
