import itertools
import json
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax, softmax

from worker.distill.methods.taid import InterpolatedTarget, Taid, target_of
from worker.distill.objectives import Answers

DEFAULTS = {"alpha": 1.0, "lambda_start": 0.4, "lambda_end": 1.0, "adaptation_rate": 5e-4, "momentum": 0.99}


def objective(**changes: Any) -> InterpolatedTarget:
    return InterpolatedTarget(Taid(**(DEFAULTS | changes)))


def answers(student: torch.Tensor, teacher: torch.Tensor) -> Answers:
    rows = len(student)
    return Answers(student, teacher, torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool))


def loss_and_gradient(which: InterpolatedTarget, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Answers]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(6, 4, generator=generator, requires_grad=True)
    given = answers(student, torch.randn(6, 4, generator=generator))
    loss = which(given)
    loss.sum().backward()
    assert student.grad is not None
    return loss.detach(), student.grad, given


def train(which: InterpolatedTarget, losses: list[float], total_steps: int) -> list[float]:
    """Lambda after each step of a training whose loss goes so: logits are found that have it."""
    course = []
    for step, loss in enumerate(losses, start=1):
        which._loss = torch.tensor(loss, dtype=torch.float64)
        which.after_step(step, total_steps)
        course.append(which.interpolation)
    return course


class TestLoss:
    def test_without_the_teacher_the_target_is_the_student_and_nothing_pulls(self) -> None:
        loss, gradient, given = loss_and_gradient(objective(lambda_start=0.0))
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))
        own = softmax(given.student.detach(), -1)
        torch.testing.assert_close(target_of(given.student, given.teacher, 0.0), own)
        torch.testing.assert_close(loss, -(own * own.log()).sum(-1))

    def test_at_lambda_one_the_gradient_is_that_of_plain_divergence(self) -> None:
        _, gradient, given = loss_and_gradient(objective(lambda_start=1.0))
        expected = softmax(given.student.detach(), -1) - softmax(given.teacher, -1)
        torch.testing.assert_close(gradient, expected)

    def test_between_them_logits_are_mixed_not_probabilities(self) -> None:
        loss, _, given = loss_and_gradient(objective(lambda_start=0.25))
        target = softmax(0.75 * given.student.detach() + 0.25 * given.teacher, -1)
        torch.testing.assert_close(loss, -(target * log_softmax(given.student.detach(), -1)).sum(-1))

    def test_the_labels_get_the_rest(self) -> None:
        loss, _, given = loss_and_gradient(objective(alpha=0.0))
        torch.testing.assert_close(loss, -log_softmax(given.student.detach(), -1)[:, 0])


class TestLambda:
    def test_rises_with_the_steps_never_falls_and_ends_at_its_end(self) -> None:
        which = objective(lambda_end=0.9)
        losses = [2.0 + 0.5 * (-1) ** step for step in range(200)]
        course = [0.4, *train(which, losses, 200)]
        assert all(later >= earlier for earlier, later in itertools.pairwise(course))
        ramp = [0.4 + 0.5 * step / 200 for step in range(2, 201)]
        assert all(value >= least for value, least in zip(course[2:], ramp, strict=True))
        assert course[-1] == 0.9

    def test_a_loss_that_stands_still_adds_half_the_rate(self) -> None:
        which = objective(lambda_start=0.0, lambda_end=1.0, adaptation_rate=0.1)
        course = train(which, [1.0, 1.0], total_steps=10**9)
        assert course == pytest.approx([0.0, 0.1 * 0.5 * 1.0], abs=1e-8)

    def test_a_falling_loss_adds_more_than_a_rising_one(self) -> None:
        falling, rising = (
            train(objective(momentum=0.0, adaptation_rate=0.1), losses, 10**9)[-1]
            for losses in ([2.0, 1.0], [1.0, 2.0])
        )
        assert falling > rising > 0.4

    def test_its_state_survives_a_checkpoint(self) -> None:
        first, second = objective(), objective()
        train(first, [2.0, 1.5, 1.2], 10)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.facts() == first.facts() == {"taid_lambda": first.interpolation}
        assert train(first, [1.1], 5) == train(second, [1.1], 5)
