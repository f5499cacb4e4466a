import json
import math

import pytest
import torch

from worker.distill.methods.nd import NormAndDirection
from worker.distill.methods.taid import InterpolatedTarget, Taid
from worker.distill.objectives import Answers, Combined, CrossEntropy, KnowledgeDistillation

LABELS = torch.tensor([0, 1])
BOTH = torch.tensor([True, True])


class TestKnowledgeDistillation:
    def test_matches_a_case_by_hand(self) -> None:
        """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
        teacher = torch.tensor([[math.log(3.0), 0.0]])
        student = torch.zeros(1, 2)
        loss = KnowledgeDistillation(temperature=1.0, alpha=1.0)(Answers(student, teacher, LABELS[:1], BOTH[:1]))
        expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        torch.testing.assert_close(loss, torch.tensor([expected]))

    def test_is_zero_where_both_agree_and_only_the_teacher_counts(self) -> None:
        logits = torch.randn(2, 5)
        loss = KnowledgeDistillation(temperature=2.0, alpha=1.0)(Answers(logits, logits, LABELS, BOTH))
        torch.testing.assert_close(loss, torch.zeros(2))

    def test_alpha_zero_is_cross_entropy(self) -> None:
        student, teacher = torch.randn(2, 5), torch.randn(2, 5)
        loss = KnowledgeDistillation(temperature=3.0, alpha=0.0)(Answers(student, teacher, LABELS, BOTH))
        torch.testing.assert_close(loss, CrossEntropy()(Answers(student, None, LABELS, BOTH)))

    def test_a_row_without_a_label_pays_only_the_divergence(self) -> None:
        student, teacher = torch.randn(2, 5), torch.randn(2, 5)
        objective = KnowledgeDistillation(temperature=2.0, alpha=0.6)
        loss = objective(Answers(student, teacher, LABELS, torch.tensor([True, False])))
        other_label = objective(Answers(student, teacher, torch.tensor([0, 4]), torch.tensor([True, False])))
        torch.testing.assert_close(loss[1], other_label[1])

    def test_temperature_squared_keeps_the_size_of_the_gradient(self) -> None:
        teacher = torch.randn(1, 5) * 0.01
        sizes = []
        for temperature in (1.0, 10.0):
            student = torch.zeros(1, 5, requires_grad=True)
            objective = KnowledgeDistillation(temperature, alpha=1.0)
            objective(Answers(student, teacher, LABELS[:1], BOTH[:1])).sum().backward()
            assert student.grad is not None
            sizes.append(student.grad.norm().item())
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)

    def test_rows_together_equal_rows_apart(self) -> None:
        student, teacher = torch.randn(2, 5), torch.randn(2, 5)
        objective = KnowledgeDistillation(2.0, 0.5)
        together = objective(Answers(student, teacher, LABELS, BOTH))
        apart = [
            objective(Answers(student[i : i + 1], teacher[i : i + 1], LABELS[i : i + 1], BOTH[i : i + 1]))
            for i in (0, 1)
        ]
        torch.testing.assert_close(together, torch.cat(apart))

    def test_refuses_to_work_without_a_teacher(self) -> None:
        with pytest.raises(ValueError, match="needs the teacher's logits"):
            KnowledgeDistillation(2.0, 0.5)(Answers(torch.zeros(2, 3), None, LABELS, BOTH))


class TestCrossEntropy:
    def test_matches_a_case_by_hand(self) -> None:
        loss = CrossEntropy()(Answers(torch.zeros(2, 4), None, LABELS, BOTH))
        torch.testing.assert_close(loss, torch.full((2,), math.log(4.0)))

    def test_a_row_without_a_label_costs_nothing(self) -> None:
        loss = CrossEntropy()(Answers(torch.randn(2, 4), None, LABELS, torch.tensor([True, False])))
        assert loss[1] == 0


class TestCombined:
    def test_is_the_sum_and_keeps_the_state_of_each_part(self) -> None:
        answers = Answers(torch.randn(2, 5), torch.randn(2, 5), LABELS, BOTH)
        parameters = Taid(alpha=1.0, lambda_start=0.3, lambda_end=1.0, adaptation_rate=0.1, momentum=0.5)
        taid, plain = InterpolatedTarget(parameters), KnowledgeDistillation(2.0, 0.5)
        both = Combined(taid, [plain])
        torch.testing.assert_close(both(answers), taid(answers) + plain(answers))
        for step in (1, 2, 3):
            both(answers)
            both.after_step(step, 10)
        assert both.facts() == {"taid_lambda": taid.interpolation}
        again = Combined(InterpolatedTarget(parameters), [plain])
        again.load_state_dict(json.loads(json.dumps(both.state_dict())))
        assert again.facts() == both.facts()

    def test_needs_what_any_of_its_parts_needs(self) -> None:
        assert not Combined(CrossEntropy(), []).needs_teacher
        both = Combined(CrossEntropy(), [NormAndDirection(1.0)])
        assert both.needs_teacher
        assert both.needs_features
