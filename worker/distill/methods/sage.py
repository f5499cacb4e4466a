"""SAGE: synthesis where the student's loss is high. What a round does is in strategies/guided.py."""

from dataclasses import dataclass

from worker.distill.methods.base import Part
from worker.distill.methods.guided import GuidedMethod
from worker.distill.strategies.guided import Lift
from worker.distill.strategies.guides import HighLoss


@dataclass(frozen=True)
class Sage(GuidedMethod):
    synthetic_ratio: float
    lift: Lift
    candidates: float
    anchor_quantile: float
    scored_rows: int
    early_stopping: bool

    def part(self) -> Part:
        return self.guided(
            HighLoss(self.anchor_quantile, score=self.plain),
            extra_ratio=self.synthetic_ratio,
            lift=self.lift,
            candidates=self.candidates,
            scored_rows=self.scored_rows,
            early_stopping=self.early_stopping,
        )
