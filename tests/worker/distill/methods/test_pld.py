import torch
from torch.nn.functional import cross_entropy, softmax

from tests.worker.distill.methods.answers import some_answers
from worker.distill.methods.pld import PlackettLuce


class TestPlackettLuce:
    def test_matches_a_loop_over_the_definition(self) -> None:
        given = some_answers()
        assert given.teacher is not None
        for row, loss in enumerate(PlackettLuce(1.5)(given)):
            label = int(given.labels[row])
            others = [int(c) for c in given.teacher[row].argsort(descending=True) if int(c) != label]
            order = [label, *others]
            weights = softmax(given.teacher[row] / 1.5, -1)
            expected = sum(
                weights[c] * (given.student[row][order[k:]].logsumexp(0) - given.student[row][c])
                for k, c in enumerate(order)
            )
            torch.testing.assert_close(loss, expected)

    def test_does_not_change_with_a_constant_on_all_logits(self) -> None:
        given = some_answers()
        moved = some_answers(given.student + 7, given.teacher, labels=given.labels.tolist())
        torch.testing.assert_close(PlackettLuce(1.0)(moved), PlackettLuce(1.0)(given))

    def test_of_two_classes_is_the_weighted_cross_entropy(self) -> None:
        given = some_answers(classes=2)
        assert given.teacher is not None
        confidence = softmax(given.teacher, -1).gather(1, given.labels[:, None])[:, 0]
        expected = confidence * cross_entropy(given.student, given.labels, reduction="none")
        torch.testing.assert_close(PlackettLuce(1.0)(given), expected)

    def test_a_teacher_that_is_certain_and_right_makes_it_cross_entropy(self) -> None:
        labels = [0, 1, 2, 3, 4, 0, 1, 2]
        given = some_answers(teacher=torch.eye(5)[labels] * 100, labels=labels)
        expected = cross_entropy(given.student, given.labels, reduction="none")
        torch.testing.assert_close(PlackettLuce(1.0)(given), expected)

    def test_is_convex(self) -> None:
        first, second = some_answers(seed=1), some_answers(seed=2)
        loss = PlackettLuce(1.0)
        ends = [
            loss(some_answers(student, first.teacher, labels=first.labels.tolist()))
            for student in (first.student, (first.student + second.student) / 2, second.student)
        ]
        assert (ends[1] <= (ends[0] + ends[2]) / 2 + 1e-6).all()

    def test_is_least_where_the_right_class_comes_first_and_then_the_teachers_order(self) -> None:
        student = torch.zeros(1, 4, requires_grad=True)
        teacher = torch.tensor([[2.0, 1.0, 0.5, 0.0]])
        for _ in range(400):
            loss = PlackettLuce(1.0)(some_answers(student, teacher, labels=[2])).sum()
            (gradient,) = torch.autograd.grad(loss, student)
            with torch.no_grad():
                student -= gradient
        assert student.detach().argsort(descending=True).tolist() == [[2, 0, 1, 3]]

    def test_a_synthetic_row_takes_the_teachers_word(self) -> None:
        given = some_answers(has_label=[False] * 8)
        assert given.teacher is not None
        told = some_answers(given.student, given.teacher, labels=given.teacher.argmax(1).tolist())
        torch.testing.assert_close(PlackettLuce(1.0)(given), PlackettLuce(1.0)(told))
