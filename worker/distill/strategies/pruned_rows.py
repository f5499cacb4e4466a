"""A random part of the real rows, the same in all epochs, on the whole budget."""

import numpy as np

from worker.distill import seed as seeds
from worker.distill.batches import stream_of_rows
from worker.distill.strategies.base import RoundPlan, StrategyContext
from worker.distill.strategies.real_rows import RealRows


class PrunedRows(RealRows):
    """As RealRows, from `fraction` of the rows of each class. With one seed, less is a part of more."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction
        self._kept: np.ndarray | None = None

    def plan_round(self, number: int, size: int, rounds_without_gain: int, context: StrategyContext) -> RoundPlan:
        plan = super().plan_round(number, size, rounds_without_gain, context)
        return RoundPlan(plan.rows, None, {"kept_rows": float(len(self._rows(context)))})

    def take(self, count: int, context: StrategyContext) -> np.ndarray:
        kept = self._rows(context)
        places = stream_of_rows(context.seed, context.arm, len(kept), self.position, count)
        self.position += count
        return kept[places]

    def _rows(self, context: StrategyContext) -> np.ndarray:
        if self._kept is None:
            self._kept = kept_rows(context.split.labels, self.fraction, context.seed)
        return self._kept


def kept_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Ascending row numbers: of each class its share, to the nearest row, and at least one."""
    generator = seeds.generator(seed, "pruning")
    order = generator.permutation(len(labels))
    kept = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        kept.append(of_class[: max(1, round(fraction * len(of_class)))])
    return np.sort(np.concatenate(kept))
