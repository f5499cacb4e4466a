"""ND (KD++): features as long as the teacher's, in the direction of their class.

Wang et al., "Improving knowledge distillation via regularizing feature norm and direction" (2023), as in the authors'
code.
"""

from dataclasses import dataclass

import numpy as np
import torch

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Objective, known_class
from worker.distill.rows import Predictions


@dataclass(frozen=True)
class Nd(Method):
    weight: float

    def part(self) -> Part:
        return Part(auxiliary=NormAndDirection(self.weight))


class NormAndDirection(Objective):
    """weight [ 1 - <h_S, e_y> / max(|h_S|, |h_T|) ], e_c the direction of the teacher's mean feature of class c.

    h are what the last linear layer reads. Zero where the student's feature points along its class and is at least as
    long as the teacher's, 2 at most. A synthetic row's class is the teacher's first.
    """

    needs_features = True

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.directions: torch.Tensor | None = None  # (classes, width); zero for a class without rows

    def begin(self, teacher: Predictions | None, labels: np.ndarray) -> None:
        assert teacher is not None
        assert teacher.features is not None, "it asked for them"
        classes = teacher.logits.shape[1]
        sums = np.zeros((classes, teacher.features.shape[1]))
        np.add.at(sums, labels, teacher.features)  # the mean has the sum's direction
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        self.directions = torch.from_numpy((sums / np.maximum(lengths, 1e-12)).astype(np.float32))

    def __call__(self, answers: Answers) -> torch.Tensor:
        student, teacher = answers.student_features, answers.teacher_features
        assert self.directions is not None, "begin() comes before it"
        if student is None or teacher is None:
            raise ValueError("this objective needs the features of student and teacher, got None.")
        self.directions = self.directions.to(student.device)
        directions = self.directions[known_class(answers)]
        longest = torch.maximum(student.norm(dim=1), teacher.norm(dim=1)).clamp(min=1e-12)
        return self.weight * (1 - (student * directions).sum(1) / longest)
