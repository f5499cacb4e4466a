"""SAGE's control: the same synthesis, led by nothing."""

from dataclasses import dataclass

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation
from worker.distill.strategies.guided import Guided
from worker.distill.strategies.guides import Anywhere


@dataclass(frozen=True)
class RandomAnchors(Method):
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    synthetic_ratio: float
    neighbors: int

    def part(self) -> Part:
        objective = KnowledgeDistillation(self.temperature, self.alpha)
        strategy = Guided(
            rounds=self.rounds,
            warmup_epochs=self.warmup_epochs,
            extra_ratio=self.synthetic_ratio,
            neighbors=self.neighbors,
            guide=Anywhere(),
            scored_rows=0,
            synthesises=True,
            early_stopping=False,
        )
        return Part(default_objective=objective, strategy=strategy)
