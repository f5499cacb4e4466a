import numpy as np
import pytest

from app.schemas.methods.pruned import Pruned
from tests.worker.distill.test_strategies import ROWS, context, strategy_of
from worker.distill.strategies.pruned_rows import kept_rows

LABELS = np.random.default_rng(0).choice(4, size=1_000, p=[0.6, 0.3, 0.09, 0.01])


class TestKeptRows:
    def test_all_of_them_is_everything(self) -> None:
        np.testing.assert_array_equal(kept_rows(LABELS, 1.0, 3), np.arange(1_000))

    @pytest.mark.parametrize("fraction", [0.1, 0.37, 0.8])
    def test_classes_keep_their_shares_within_a_row(self, fraction: float) -> None:
        kept = np.bincount(LABELS[kept_rows(LABELS, fraction, 3)], minlength=4)
        assert (np.abs(kept - fraction * np.bincount(LABELS)) <= 1).all()

    def test_less_is_a_part_of_more(self) -> None:
        smaller, greater = (set(kept_rows(LABELS, fraction, 3)) for fraction in (0.2, 0.5))
        assert smaller < greater

    def test_no_class_is_lost_and_another_seed_keeps_other_rows(self) -> None:
        assert set(LABELS[kept_rows(LABELS, 0.001, 3)]) == {0, 1, 2, 3}
        assert set(kept_rows(LABELS, 0.2, 3)) != set(kept_rows(LABELS, 0.2, 4))


class TestPrunedRows:
    def test_the_whole_budget_is_spent_on_the_rows_that_are_kept(self) -> None:
        surroundings = context()
        strategy = strategy_of("pruned", fraction=0.25)
        plans = [strategy.plan_round(number, ROWS, 0, surroundings) for number in range(2)]
        kept = kept_rows(surroundings.split.labels, 0.25, surroundings.seed)
        for plan in plans:
            rows, counts = np.unique(plan.rows, return_counts=True)
            np.testing.assert_array_equal(rows, kept)
            assert set(counts) == {4}
            assert plan.facts == {"kept_rows": 30.0}


class TestAlpha:
    def test_rises_as_the_rows_become_fewer_unless_it_is_named(self) -> None:
        alphas = [Pruned(fraction=fraction).alpha for fraction in (0.05, 0.1, 0.3, 0.5, 1.0)]
        assert alphas == sorted(alphas, reverse=True)
        assert (alphas[0], alphas[3], alphas[4]) == (1.0, 0.778, 0.5)
        assert Pruned(fraction=0.1, alpha=0.2).alpha == 0.2
