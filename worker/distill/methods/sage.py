"""SAGE: synthesis where the student's loss is high. What a round does is in strategies/guided.py."""

from dataclasses import dataclass

from worker.distill.methods.base import Part
from worker.distill.methods.guided import TargetedMethod
from worker.distill.strategies.guided import Lift


@dataclass(frozen=True)
class Sage(TargetedMethod):
    synthetic_ratio: float
    lift: Lift
    candidates: float
    early_stopping: bool

    def part(self) -> Part:
        return self.guided(
            self.guide,
            extra_ratio=self.synthetic_ratio,
            lift=self.lift,
            candidates=self.candidates,
            scored_rows=self.scored_rows,
            early_stopping=self.early_stopping,
        )
