import json
from typing import Any

import pytest
import torch

from tests.worker.distill.methods.answers import some_answers
from worker.distill.methods.llkd import Llkd, SureTeacherUnsureStudent
from worker.distill.methods.sinkd import Sinkd, SinkhornDistance
from worker.distill.objectives import Combined, KnowledgeDistillation

DEFAULTS = {"momentum": 0.9, "least_share": 0.0, "gated": "all"}


def gate(**changes: Any) -> SureTeacherUnsureStudent:
    return SureTeacherUnsureStudent(Llkd(**(DEFAULTS | changes)))


def logits(*probabilities: float) -> torch.Tensor:
    """(rows, 2): the first class has these probabilities."""
    first = torch.tensor(probabilities)
    return torch.stack([first, 1 - first], 1).log()


class TestSureTeacherUnsureStudent:
    def test_keeps_where_the_teacher_is_surer_and_the_student_less_sure_than_usual(self) -> None:
        which = gate()
        which.confidence, which.entropy = {0: 0.8}, {0: 0.5}
        # Entropy of (0.6, 0.4) is 0.67, of (0.95, 0.05) is 0.20.
        student, teacher = logits(0.6, 0.6, 0.95, 0.95), logits(0.9, 0.7, 0.9, 0.7)
        weights = which(some_answers(student, teacher))
        assert weights.tolist() == [4.0, 0.0, 0.0, 0.0]

    def test_a_surer_teacher_never_removes_a_row(self) -> None:
        for confidence in (0.81, 0.9, 0.99):
            which = gate()
            which.confidence, which.entropy = {0: 0.8}, {0: 0.5}
            assert which(some_answers(logits(0.6, 0.9), logits(confidence, 0.6)))[0] > 0

    def test_a_batch_counts_as_much_as_ever(self) -> None:
        which = gate(least_share=0.25)
        for seed in range(20):
            weights = which(some_answers(rows=16, seed=seed))
            assert float(weights.mean()) == pytest.approx(1, abs=1e-6)
            assert (weights > 0).sum() >= 4

    def test_too_few_are_filled_up_by_what_is_nearest_to_being_kept(self) -> None:
        which = gate(least_share=0.5)
        which.confidence, which.entropy = {0: 1.0}, {0: 1.0}
        weights = which(some_answers(logits(0.6, 0.9, 0.6, 0.9), logits(0.95, 0.95, 0.6, 0.6)))
        assert (weights > 0).tolist() == [True, False, True, False]

    def test_thresholds_become_the_means_of_their_classes(self) -> None:
        which = gate(momentum=0.9)
        given = some_answers(rows=64)
        assert given.teacher is not None
        for _ in range(300):
            which(given)
        confidence, classes = torch.softmax(given.teacher, -1).max(-1)
        for label in classes.unique().tolist():
            assert which.confidence[label] == pytest.approx(float(confidence[classes == label].mean()), abs=1e-5)

    def test_the_first_batches_of_a_class_count_alike(self) -> None:
        """Harm: with many classes a threshold stays where an untrained student was, and hardly a row reaches it."""
        which = gate(momentum=0.99)
        for first in (0.6, 0.9, 0.9):
            which(some_answers(logits(0.8, 0.8), logits(first, first)))
        assert which.confidence == pytest.approx({0: 0.8})

    def test_goes_on_from_a_release_that_did_not_count_batches(self) -> None:
        which = gate(momentum=0.9)
        which.load_state_dict({"confidence": [[0, 0.8]], "entropy": [[0, 0.5]], "rows_seen": 2, "rows_kept": 1})
        which(some_answers(logits(0.8, 0.8), logits(0.6, 0.6)))
        assert which.confidence == pytest.approx({0: 0.9 * 0.8 + 0.1 * 0.6})

    @pytest.mark.parametrize("gated", ["all", "synthetic"])
    def test_a_batch_of_which_no_row_is_kept_costs_nothing(self, gated: str) -> None:
        """Harm: a loss that is not a number ends the job, with the advice to lower the learning rate."""
        which = gate(gated=gated)
        which.confidence, which.entropy = {0: 1.0}, {0: 1.0}
        student = logits(0.6, 0.7).requires_grad_()
        given = some_answers(student, logits(0.9, 0.8), has_label=[False, False])
        loss = Combined(KnowledgeDistillation(2.0, 0.9), [], which)(given).mean()
        loss.backward()
        assert float(loss.detach()) == 0
        assert student.grad is not None
        assert not student.grad.any()
        assert which.facts() == {"kept_share": 0.0}

    def test_leaves_alone_what_is_of_the_batch_as_a_whole(self) -> None:
        """Harm: a distance between two sets of rows that counts for more the more of them are kept."""
        which = gate()
        which.confidence, which.entropy = {0: 0.8}, {0: 0.5}
        given = some_answers(logits(0.6, 0.6, 0.95, 0.95), logits(0.9, 0.7, 0.9, 0.7))
        plain, distance = KnowledgeDistillation(2.0, 0.9), SinkhornDistance(Sinkd(0.8, 2.0, 0.1, 20, debiased=False))
        expected = plain(given) * torch.tensor([4.0, 0.0, 0.0, 0.0]) + distance(given)
        torch.testing.assert_close(Combined(plain, [distance], which)(given), expected)

    def test_a_class_that_was_never_seen_is_kept(self) -> None:
        weights = gate()(some_answers())
        assert weights.tolist() == [1.0] * 8

    def test_real_rows_count_where_only_synthetic_ones_are_gated(self) -> None:
        which = gate(gated="synthetic")
        which.confidence, which.entropy = {0: 1.0}, {0: 1.0}
        given = some_answers(logits(0.6, 0.6, 0.6), logits(0.7, 0.7, 0.7), has_label=[True, True, False])
        assert which(given).tolist() == [1.5, 1.5, 0.0]
        assert which.facts() == {"kept_share": 0.0}
        assert gate(gated="synthetic")(some_answers()).tolist() == [1.0] * 8

    def test_the_share_that_it_tells_is_of_the_round_alone(self) -> None:
        """Harm: a share that seems to fall round by round, and is the mean since the beginning."""
        which = gate()
        which(some_answers())  # of classes never seen, so all are kept
        assert which.facts() == {"kept_share": 1.0}
        which.confidence, which.entropy = dict.fromkeys(range(9), 1.0), dict.fromkeys(range(9), 9.0)
        which(some_answers())
        resumed = gate()
        resumed.load_state_dict(json.loads(json.dumps(which.state_dict())))
        assert which.facts() == resumed.facts() == {"kept_share": 0.0}
        assert which.facts() == resumed.facts() == {}, "of a round that had no such rows"
        assert which.state_dict() == resumed.state_dict()

    def test_its_state_survives_a_checkpoint(self) -> None:
        first, second = gate(), gate()
        for seed in range(5):
            first(some_answers(seed=seed))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        torch.testing.assert_close(first(some_answers(seed=9)), second(some_answers(seed=9)))
        assert first.facts() == second.facts()
