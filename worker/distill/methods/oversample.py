"""SAGE's other control: the same rows of high loss, repeated instead of synthesised from."""

from dataclasses import dataclass

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation
from worker.distill.strategies.guided import Guided
from worker.distill.strategies.guides import HighLoss


@dataclass(frozen=True)
class Oversample(Method):
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    oversample_ratio: float
    neighbors: int
    anchor_quantile: float
    scored_rows: int

    def part(self) -> Part:
        objective = KnowledgeDistillation(self.temperature, self.alpha)
        strategy = Guided(
            rounds=self.rounds,
            warmup_epochs=self.warmup_epochs,
            extra_ratio=self.oversample_ratio,
            neighbors=self.neighbors,
            guide=HighLoss(self.anchor_quantile, score=objective),
            scored_rows=self.scored_rows,
            synthesises=False,
            early_stopping=False,
        )
        return Part(default_objective=objective, strategy=strategy)
