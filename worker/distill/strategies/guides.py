"""What leads a round: from which rows a guided strategy draws, and by what chance."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from worker.distill.objectives import Objective
from worker.distill.selection import Region, high_loss_region, loss_mass, row_region, smooth, uniform_region
from worker.distill.strategies.base import StrategyContext


class Guide(ABC):
    needs_map: bool = False  # it looks at where rows lie, and asks for the synthesizer

    @abstractmethod
    def region(self, scored: np.ndarray, neighbors: int, context: StrategyContext) -> tuple[Region, float | None]:
        """The region, by looking at the rows `scored` (ascending), and the mean loss in it where one is known."""


class Anywhere(Guide):
    """Nothing leads: the control for what any of the others adds."""

    def region(
        self,
        scored: np.ndarray,  # noqa: ARG002 - the guide's
        neighbors: int,  # noqa: ARG002
        context: StrategyContext,
    ) -> tuple[Region, float | None]:
        return uniform_region(context.rows), None


@dataclass
class RowLoss(Guide):
    """The rows that were scored, each by its own loss."""

    score: Objective  # always the plain distance to the teacher, whatever is trained with

    def region(
        self,
        scored: np.ndarray,
        neighbors: int,  # noqa: ARG002 - the guide's
        context: StrategyContext,
    ) -> tuple[Region, float | None]:
        losses = np.full(len(context.split), np.nan, np.float32)
        losses[scored] = context.score(self.score, scored)
        return row_region(losses), float(losses[scored].mean())


@dataclass
class HighLoss(Guide):
    """The `quantile` of rows around which the loss is highest."""

    quantile: float
    # By what rows are scored: always the plain KD loss, which stays comparable whatever is trained with.
    score: Objective
    # And where some rows have no label, by that without the label's part: it would draw the region to those that have.
    score_unlabelled: Objective

    needs_map = True

    def region(self, scored: np.ndarray, neighbors: int, context: StrategyContext) -> tuple[Region, float | None]:
        has_labels = bool(context.split.has_label[context.rows].all())
        losses = context.score(self.score if has_labels else self.score_unlabelled, scored)
        coordinates = context.synthesizer(neighbors).projection.coordinates
        smoothed = smooth(losses, coordinates[scored], coordinates[context.rows], neighbors)
        region = high_loss_region(smoothed, self.quantile)
        return replace(region, rows=context.rows[region.rows]), loss_mass(smoothed, region)
