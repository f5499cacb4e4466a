"""SAGE: synthesis where the student's loss is high. What a round does is in strategies/guided.py."""

from dataclasses import dataclass

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation
from worker.distill.strategies.guided import Guided
from worker.distill.strategies.guides import HighLoss


@dataclass(frozen=True)
class Sage(Method):
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    synthetic_ratio: float
    neighbors: int
    anchor_quantile: float
    scored_rows: int
    early_stopping: bool

    def part(self) -> Part:
        objective = KnowledgeDistillation(self.temperature, self.alpha)
        strategy = Guided(
            rounds=self.rounds,
            warmup_epochs=self.warmup_epochs,
            extra_ratio=self.synthetic_ratio,
            neighbors=self.neighbors,
            guide=HighLoss(self.anchor_quantile, score=objective),
            scored_rows=self.scored_rows,
            synthesises=True,
            early_stopping=self.early_stopping,
        )
        return Part(default_objective=objective, strategy=strategy)
