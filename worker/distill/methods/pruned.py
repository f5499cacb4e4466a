"""Distillation on a part of the data.

After "Distilling the knowledge in data pruning" (Ben-Baruch et al., 2024): with a teacher, rows left out at random cost
little, and the fewer there are the more the teacher should count.
"""

from dataclasses import dataclass

import numpy as np

from worker.distill import seed as seeds
from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation


@dataclass(frozen=True)
class Pruned(Method):
    fraction: float
    temperature: float
    alpha: float

    def part(self) -> Part:
        objective = KnowledgeDistillation(self.temperature, self.alpha)
        return Part(default_objective=objective, subset=lambda labels, seed: kept_rows(labels, self.fraction, seed))


def kept_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Ascending row numbers: of each class its share, to the nearest row, and at least one. With one seed, less is a
    part of more."""
    generator = seeds.generator(seed, "pruning")
    order = generator.permutation(len(labels))
    kept = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        kept.append(of_class[: max(1, round(fraction * len(of_class)))])
    return np.sort(np.concatenate(kept))
