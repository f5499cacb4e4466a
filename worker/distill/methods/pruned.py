"""Distillation on a part of the data.

After "Distilling the knowledge in data pruning" (Ben-Baruch et al., 2024): with a teacher, rows left out at random cost
little, and the fewer there are the more the teacher should count.
"""

from dataclasses import dataclass

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation
from worker.distill.strategies.pruned_rows import PrunedRows


@dataclass(frozen=True)
class Pruned(Method):
    fraction: float
    temperature: float
    alpha: float

    def part(self) -> Part:
        objective = KnowledgeDistillation(self.temperature, self.alpha)
        return Part(default_objective=objective, strategy=PrunedRows(self.fraction))
