from typing import Any

import pytest
import torch

from tests.worker.distill.methods.answers import some_answers
from worker.distill.methods.sinkd import Sinkd, SinkhornDistance, sinkhorn_distance, transport

DEFAULTS = {"weight": 1.0, "temperature": 2.0, "epsilon": 0.1, "iterations": 20, "debiased": False}


def distance(**changes: Any) -> SinkhornDistance:
    return SinkhornDistance(Sinkd(**(DEFAULTS | changes)))


class TestTransport:
    @pytest.mark.parametrize("epsilon", [1e-3, 0.1, 10.0])
    def test_every_column_sums_to_one_and_nothing_overflows(self, epsilon: float) -> None:
        plan = transport(torch.rand(9, 9, generator=torch.Generator().manual_seed(1)) * 2, epsilon, 20)
        torch.testing.assert_close(plan.sum(0), torch.ones(9))
        assert (plan >= 0).all()

    def test_without_entropy_it_finds_the_cheapest_pairing(self) -> None:
        costs = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
        torch.testing.assert_close(transport(costs, 1e-2, 50), torch.eye(3))

    def test_matches_plain_scaling(self) -> None:
        costs = torch.rand(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        plan = torch.exp(-costs / 0.1)
        for _ in range(20):
            plan = plan / plan.sum(1, keepdim=True)
            plan = plan / plan.sum(0, keepdim=True)
        torch.testing.assert_close(transport(costs, 0.1, 20), plan)


class TestSinkhornDistance:
    @pytest.mark.parametrize("debiased", [False, True])
    def test_does_not_see_which_row_of_the_teacher_is_whose(self, debiased: bool) -> None:
        given = some_answers()
        assert given.teacher is not None
        shuffled = some_answers(given.student, given.teacher.flip(0))
        torch.testing.assert_close(distance(debiased=debiased)(given), distance(debiased=debiased)(shuffled))

    def test_does_not_see_which_real_row_has_a_label(self) -> None:
        """Harm: of a dataset with few labels a batch has one labelled row, which is transported onto itself."""
        real = [True] * 6 + [False] * 2
        few = some_answers(has_label=[True] + [False] * 7, is_real=real)
        all_of_them = some_answers(has_label=real, is_real=real)
        torch.testing.assert_close(distance()(few), distance()(all_of_them))

    def test_of_a_batch_to_itself_is_positive_and_debiased_zero(self) -> None:
        student = torch.randn(32, 2, generator=torch.Generator().manual_seed(3)) * 3
        same = some_answers(student, student.clone())
        assert (distance()(same) > 0.01).all()
        torch.testing.assert_close(distance(debiased=True)(same), torch.zeros(32), atol=1e-6, rtol=0)

    def test_falls_under_gradient_descent(self) -> None:
        student = torch.randn(16, 3, generator=torch.Generator().manual_seed(4), requires_grad=True)
        teacher = torch.randn(16, 3, generator=torch.Generator().manual_seed(5)) * 2
        losses = []
        for _ in range(60):
            loss = distance(debiased=True)(some_answers(student, teacher)).mean()
            (gradient,) = torch.autograd.grad(loss, student)
            with torch.no_grad():
                student -= 5 * gradient
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]

    def test_is_finite_where_both_are_next_to_certain(self) -> None:
        student = (torch.eye(4) * 200).requires_grad_()
        loss = distance(epsilon=1e-3)(some_answers(student, torch.eye(4).flip(0) * 200))
        loss.sum().backward()
        assert student.grad is not None
        assert torch.isfinite(loss).all()
        assert torch.isfinite(student.grad).all()

    def test_real_and_synthetic_rows_are_transported_apart(self) -> None:
        given = some_answers(has_label=[True] * 5 + [False] * 3)
        assert given.teacher is not None
        loss = distance(weight=3.0)(given)
        for part in (slice(0, 5), slice(5, 8)):
            probabilities = [torch.softmax(logits[part] / 2, -1) for logits in (given.student, given.teacher)]
            expected = 3 * sinkhorn_distance(*probabilities, 0.1, 20)
            torch.testing.assert_close(loss[part], expected.expand(len(loss[part])))
