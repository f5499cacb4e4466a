import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from tests.worker.distill.methods.answers import some_answers
from tests.worker.distill.test_strategies import WEAK, context, strategy_of
from worker.distill.methods.rad import Gain, RobustMargins, robust_region

GAINS = np.array([0.9, 0.2, 0.7, 0.71, 0.05, 0.4, 0.65, 0.3, 0.12, 0.5])
ROWS = np.arange(100, 110)


def gain_in_the_worst_case(chances: np.ndarray, gains: np.ndarray, mistakes: int) -> float:
    """What is left when the `mistakes` rows that bring most bring nothing."""
    return float(np.sort(chances * gains)[: len(gains) - mistakes].sum())


def chances(mistakes: int) -> np.ndarray:
    region = robust_region(GAINS, ROWS, mistakes)
    found = np.zeros(len(ROWS))
    found[region.rows - 100] = region.probabilities
    return found


class TestRobustRegion:
    @pytest.mark.parametrize("mistakes", [0, 1, 2, 4])
    def test_is_the_best_of_all_draws_in_the_worst_case(self, mistakes: int) -> None:
        """Against the linear programme: maximise v, v at most the gain over each set of rows that may be left."""
        rows = len(GAINS)
        left = [list(which) for which in itertools.combinations(range(rows), rows - mistakes)]
        bounds = np.zeros((len(left), rows + 1))
        for line, which in zip(bounds, left, strict=True):
            line[which] = -GAINS[which]
            line[-1] = 1
        best = linprog(
            [*np.zeros(rows), -1],
            A_ub=bounds,
            b_ub=np.zeros(len(left)),
            A_eq=[[*np.ones(rows), 0]],
            b_eq=[1],
        )
        assert gain_in_the_worst_case(chances(mistakes), GAINS, mistakes) == pytest.approx(-best.fun)

    def test_is_a_distribution_under_which_all_rows_bring_the_same(self) -> None:
        found = chances(2)
        assert found.sum() == pytest.approx(1)
        drawn = found > 0
        assert np.ptp((found * GAINS)[drawn]) == pytest.approx(0)

    def test_without_mistakes_it_is_the_row_of_greatest_gain(self) -> None:
        np.testing.assert_array_equal(robust_region(GAINS, ROWS, 0).rows, [100])

    def test_more_mistakes_never_narrow_it(self) -> None:
        drawn = [set(robust_region(GAINS, ROWS, mistakes).rows) for mistakes in range(9)]
        assert all(less <= more for less, more in itertools.pairwise(drawn))


class TestRobustMargins:
    def test_the_gain_is_one_where_two_classes_tie_and_zero_where_one_is_certain(self) -> None:
        student = torch.tensor([[5.0, 5.0, -20.0], [40.0, 0.0, 0.0]])
        torch.testing.assert_close(Gain()(some_answers(student)), torch.tensor([1.0, 0.0]))

    def test_leads_the_rounds_of_a_strategy(self) -> None:
        strategy = strategy_of("sage")
        strategy.guide = RobustMargins(None)
        plan = strategy.plan_round(1, 90, 0, context())
        # The rows that are bad for the student are those of the greatest gain here.
        assert np.isin(plan.synthetic.anchors, WEAK).mean() > 0.8
        assert "high_loss_mass" not in plan.facts

    @pytest.mark.parametrize("error", [0.0, None])
    def test_of_a_teacher_without_mistakes_draw_many_rows(self, error: float | None) -> None:
        """Harm: a third of every round is one and the same row."""
        strategy = strategy_of("oversample")
        strategy.guide = RobustMargins(error)
        plan = strategy.plan_round(1, 90, 0, replace(context(), teacher_error=0.0))
        assert np.unique(plan.rows, return_counts=True)[1].max() < 10
