from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worker.distill.methods.answers import some_answers
from worker.distill.methods.nd import NormAndDirection
from worker.distill.objectives import Answers
from worker.distill.rows import Predictions

# Two classes, along the first axis and along the second.
FEATURES = np.array([[2.0, 1.0, 0.0], [2.0, -1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
LABELS = np.array([0, 0, 1, 1])


def loss_of(student: list[float], teacher: list[float], label: int, weight: float = 1.0) -> float:
    objective = NormAndDirection(weight)
    objective.begin(Predictions(np.zeros((4, 2), np.float32), FEATURES), LABELS)
    return float(objective(answers(torch.tensor([student]), torch.tensor([teacher]), label)))


def answers(student: torch.Tensor, teacher: torch.Tensor, label: int) -> Answers:
    given = some_answers(rows=1, classes=2, labels=[label])
    return replace(given, student_features=student, teacher_features=teacher)


class TestNormAndDirection:
    def test_is_zero_along_the_class_and_no_shorter_than_the_teacher(self) -> None:
        assert loss_of([5.0, 0.0, 0.0], [0.0, 0.0, 4.0], 0) == pytest.approx(0)
        assert loss_of([0.0, 4.0, 0.0], [0.0, 0.0, 4.0], 1) == pytest.approx(0)

    def test_is_two_in_the_other_direction(self) -> None:
        assert loss_of([-9.0, 0.0, 0.0], [1.0, 0.0, 0.0], 0) == pytest.approx(2)

    def test_of_a_short_feature_falls_evenly_with_its_length(self) -> None:
        assert loss_of([1.0, 0.0, 0.0], [0.0, 0.0, 4.0], 0, weight=2.0) == pytest.approx(2 * 0.75)
        assert loss_of([2.0, 0.0, 0.0], [0.0, 0.0, 4.0], 0, weight=2.0) == pytest.approx(2 * 0.5)

    def test_moves_the_student_only(self) -> None:
        objective = NormAndDirection(1.0)
        objective.begin(Predictions(np.zeros((4, 2), np.float32), FEATURES), LABELS)
        student = torch.tensor([[1.0, 1.0, 1.0]], requires_grad=True)
        objective(answers(student, torch.tensor([[1.0, 2.0, 0.0]]), 0)).sum().backward()
        assert student.grad is not None
        assert student.grad.abs().max() > 0.01
        assert objective.directions is not None
        assert not objective.directions.requires_grad

    def test_a_synthetic_row_belongs_to_the_class_that_the_teacher_chose(self) -> None:
        objective = NormAndDirection(1.0)
        objective.begin(Predictions(np.zeros((4, 2), np.float32), FEATURES), LABELS)
        student = torch.tensor([[0.0, 4.0, 0.0]])
        given = replace(
            answers(student, student, 0), teacher=torch.tensor([[0.0, 1.0]]), has_label=torch.tensor([False])
        )
        assert float(objective(given)) == pytest.approx(0)

    def test_a_class_without_rows_pulls_nowhere(self) -> None:
        objective = NormAndDirection(1.0)
        objective.begin(Predictions(np.zeros((4, 3), np.float32), FEATURES), LABELS)
        student = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        loss = objective(answers(student, torch.ones(1, 3), 2))
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert float(loss.detach()) == 1
        assert not gradient.any()
