"""Plain knowledge distillation."""

from dataclasses import dataclass

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation


@dataclass(frozen=True)
class Kd(Method):
    temperature: float
    alpha: float

    def part(self) -> Part:
        return Part(objective=KnowledgeDistillation(self.temperature, self.alpha))
