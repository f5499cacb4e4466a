import numpy as np
import pytest

from app.schemas.methods.pruned import Pruned
from tests.worker.distill.test_strategies import ROWS, WEAK, context, strategy_of
from tests.worker.distill.tiny_runs import METHODS
from worker.distill.config import MethodConfig
from worker.distill.methods.pruned import kept_rows
from worker.distill.methods.registry import build_recipe
from worker.distill.objectives import KnowledgeDistillation

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


class TestRowsThatAreKept:
    def test_take_the_whole_budget(self) -> None:
        kept = kept_rows(np.zeros(ROWS, np.int64), 0.25, 3)
        strategy, surroundings = strategy_of("pruned", fraction=0.25), context(kept)
        for number in range(2):
            rows, counts = np.unique(strategy.plan_round(number, ROWS, 0, surroundings).rows, return_counts=True)
            np.testing.assert_array_equal(rows, kept)
            assert set(counts) == {4}

    @pytest.mark.parametrize("method", ["sage", "random_anchors", "oversample"])
    def test_are_all_that_other_rows_are_made_of(self, method: str) -> None:
        """Harm: a row left out that comes back as the anchor, the lender or the source of one made up."""
        kept = np.sort(np.random.default_rng(1).permutation(ROWS)[:60])
        plan = strategy_of(method).plan_round(1, 90, 0, context(kept))
        assert set(plan.rows[plan.rows < ROWS]) <= set(kept)
        if method == "oversample":
            assert len(plan.rows) > len(set(plan.rows))
            return
        assert (plan.rows >= ROWS).sum() == 30
        assert set(plan.synthetic.anchors) <= set(kept)
        made_of = plan.synthetic.splices[:, 0] if method == "sage" else plan.synthetic.sources.flatten()
        assert set(made_of) <= set(kept)

    @pytest.mark.parametrize("targeting", ["rows", "region"])
    def test_lead_sage_to_where_they_are_weak(self, targeting: str) -> None:
        kept = np.sort(np.concatenate([np.arange(0, 40, 2), np.array(WEAK)[::2]]))
        losses = np.zeros(ROWS, np.float32)
        losses[WEAK] = 2.0
        plan = strategy_of("sage", targeting=targeting).plan_round(1, 60, 0, context(kept, losses))
        assert set(plan.synthetic.anchors) <= set(WEAK) & set(kept)


class TestWithOthers:
    def test_the_loss_is_its_own_unless_another_method_brings_one(self) -> None:
        def objective_of(*types: str) -> object:
            entries = [dict(METHODS[name]) for name in types]
            return build_recipe([MethodConfig(entry.pop("type"), entry) for entry in entries]).objective

        assert objective_of("sage", "pruned") == KnowledgeDistillation(2.0, METHODS["pruned"]["alpha"])
        assert objective_of("sage", "pruned") != objective_of("sage")
        assert isinstance(objective_of("pruned", "taid"), type(objective_of("taid")))


class TestAlpha:
    def test_rises_as_the_rows_become_fewer_unless_it_is_named(self) -> None:
        alphas = [Pruned(fraction=fraction).alpha for fraction in (0.05, 0.1, 0.3, 0.5, 1.0)]
        assert alphas == sorted(alphas, reverse=True)
        assert (alphas[0], alphas[3], alphas[4]) == (1.0, 0.778, 0.5)
        assert Pruned(fraction=0.1, alpha=0.2).alpha == 0.2
