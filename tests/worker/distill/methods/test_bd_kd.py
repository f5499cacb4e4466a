from typing import Any

import torch
from torch.nn.functional import log_softmax

from tests.worker.distill.methods.answers import some_answers
from worker.distill.methods.bd_kd import BalancedDivergences, BdKd

UNLABELLED = [False] * 8


def divergences(**changes: Any) -> BalancedDivergences:
    return BalancedDivergences(BdKd(**({"temperature": 1.0, "weight": 1.0, "emphasis": 2.0} | changes)))


def both_ways(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    s, t = log_softmax(student, -1), log_softmax(teacher, -1)
    return (t.exp() * (t - s)).sum(-1), (s.exp() * (s - t)).sum(-1)


class TestBalancedDivergences:
    def test_is_zero_only_where_both_say_the_same(self) -> None:
        given = some_answers(has_label=UNLABELLED)
        same = some_answers(given.student, given.student + 1, has_label=UNLABELLED)
        torch.testing.assert_close(divergences()(same), torch.zeros(8), atol=1e-6, rtol=0)
        assert (divergences()(given) > 1e-3).all()

    def test_without_emphasis_it_does_not_matter_who_is_who(self) -> None:
        given = some_answers(has_label=UNLABELLED)
        swapped = some_answers(given.teacher, given.student, has_label=UNLABELLED)
        torch.testing.assert_close(divergences(emphasis=1.0)(given), divergences(emphasis=1.0)(swapped))

    def test_a_student_that_is_too_sure_is_spread_and_one_in_doubt_is_gathered(self) -> None:
        sure, unsure = torch.tensor([[6.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
        for student, teacher, weights in ((sure, unsure, (2, 1)), (unsure, sure, (1, 2))):
            forward, reverse = both_ways(student, teacher)
            loss = divergences()(some_answers(student, teacher, has_label=[False]))
            torch.testing.assert_close(loss, weights[0] * forward + weights[1] * reverse)

    def test_labels_weight_and_temperature_come_in_as_they_do_in_plain_distillation(self) -> None:
        given = some_answers()
        assert given.teacher is not None
        hard = torch.nn.functional.cross_entropy(given.student, given.labels, reduction="none")
        forward, reverse = both_ways(given.student / 3, given.teacher / 3)
        loss = divergences(temperature=3.0, weight=0.5, emphasis=1.0)(given)
        torch.testing.assert_close(loss, hard + 0.5 * 9 * (forward + reverse))

    def test_is_finite_at_extreme_logits(self) -> None:
        student = torch.tensor([[500.0, -500.0], [-500.0, 500.0]], requires_grad=True)
        loss = divergences()(some_answers(student, torch.tensor([[-500.0, 500.0], [-500.0, 500.0]])))
        loss.sum().backward()
        assert student.grad is not None
        assert torch.isfinite(loss).all()
        assert torch.isfinite(student.grad).all()
