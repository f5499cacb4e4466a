"""Whether a teacher that names no classes has them in another order, by what it says of rows whose class is known."""

import numpy as np
import pytest

from worker.distill.label_order import find_better_order


def logits_for(predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


class TestFindBetterOrder:
    def test_outputs_that_stand_for_other_classes(self) -> None:
        labels = np.arange(60) % 3
        stands_for = np.array([2, 0, 1])
        better = find_better_order(logits_for(stands_for.argsort()[labels], 3), labels)
        assert better is not None
        assert better.classes.tolist() == stands_for.tolist()
        assert (better.accuracy_as_taken, better.accuracy) == (0.0, 1.0)

    def test_none_for_outputs_in_the_order_of_the_classes(self) -> None:
        labels = np.arange(60) % 3
        predicted = labels.copy()
        predicted[:20] = 0
        assert find_better_order(logits_for(predicted, 3), labels) is None

    def test_two_classes_the_other_way_round_whose_rows_take_turns(self) -> None:
        """Harm: of every second row all are of one class, and nothing is known of the other."""
        labels = np.arange(40) % 2
        better = find_better_order(logits_for(1 - labels, 2), labels)
        assert better is not None
        assert better.accuracy == 1.0

    @pytest.mark.parametrize("seed", range(5))
    def test_none_for_guesses_that_some_order_fits_by_chance(self, seed: int) -> None:
        """Harm: of 60 classes with two rows each some order makes half of all guesses right."""
        labels = np.arange(120) % 60
        predicted = np.random.default_rng(seed).integers(0, 60, 120)
        assert find_better_order(logits_for(predicted, 60), labels) is None

    def test_none_of_more_classes_than_can_be_assigned_in_time(self) -> None:
        labels = np.arange(2_001)
        assert find_better_order(logits_for(labels[::-1], 2_001), labels) is None
