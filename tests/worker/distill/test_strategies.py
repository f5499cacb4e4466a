from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.schemas.methods.combinations import is_whole
from tests.worker.distill.tiny_runs import METHODS
from worker.distill.config import MethodConfig
from worker.distill.data import NO_LABEL, Split
from worker.distill.methods.registry import METHODS as REGISTERED
from worker.distill.methods.registry import build_recipe
from worker.distill.objectives import KnowledgeDistillation, Objective
from worker.distill.projection import Projection
from worker.distill.rows import SyntheticRows
from worker.distill.splicing import Splices
from worker.distill.strategies.base import StrategyContext
from worker.distill.synthesis import Points, Synthesizer

ROWS = 120


WEAK = range(40, 60)  # a heap of its own on the map, on which the student is bad


def strategy_of(method: str, *, led_by: str | None = None, **changes: Any) -> Any:
    entries = [METHODS[method] | changes, *([] if led_by is None else [dict(METHODS[led_by])])]
    return build_recipe([MethodConfig(entry.pop("type"), entry) for entry in entries]).strategy


def context(
    rows: np.ndarray | None = None, losses: np.ndarray | None = None, *, has_vectors: bool = True
) -> StrategyContext:
    """A run of ROWS rows, of which the arm learns `rows`, or all; the student is bad on WEAK, or by the `losses`."""
    learnt = np.arange(ROWS) if rows is None else rows
    generator = np.random.default_rng(0)
    coordinates = generator.normal(size=(ROWS, 2)).astype(np.float32)
    coordinates[WEAK] += 50
    vectors = np.column_stack([coordinates, generator.normal(size=(ROWS, 6)) * 0.1]).astype(np.float32)
    if not has_vectors:
        vectors = vectors[:0]
    if losses is None:
        losses = np.full(ROWS, 0.1, np.float32)
        losses[WEAK] = 2.0
    projection = Projection(vectors, coordinates)
    split = Split(
        ids=np.ones(ROWS * 4, np.int32),
        segments=np.zeros(ROWS * 4, np.int8),
        is_special=np.zeros(ROWS * 4, bool),
        offsets=np.arange(ROWS + 1, dtype=np.int64) * 4,
        labels=np.zeros(ROWS, np.int64),
    )

    def score(_objective: Objective, rows: np.ndarray) -> np.ndarray:
        return losses[rows]

    def label(drawn: Points | Splices) -> SyntheticRows:
        return drawn.labelled(np.zeros((len(drawn), 3), np.float32))

    def score_synthetic(_objective: Objective, synthetic: SyntheticRows) -> np.ndarray:
        return loss_of(synthetic)

    return StrategyContext(
        arm="student",
        seed=3,
        split=split,
        rows=learnt,
        synthesizer=lambda neighbors: Synthesizer(projection, neighbors, learnt),
        score=score,
        teacher_error=0.05,
        label=label,
        score_synthetic=score_synthetic,
    )


def loss_of(synthetic: SyntheticRows) -> np.ndarray:
    """(rows,) a loss that any row tells of itself: far apart where their anchors are near."""
    return (synthetic.anchors * 37 % 11).astype(np.float32)


class TestRoundSizes:
    @pytest.mark.parametrize("method", sorted(name for name in REGISTERED if is_whole(name)))
    @pytest.mark.parametrize("epochs", [0.5, 1.0, 2.5, 7.0])
    def test_sum_to_the_one_budget_whatever_the_method(self, method: str, epochs: float) -> None:
        assert sum(strategy_of(method).round_sizes(epochs, ROWS)) == round(epochs * ROWS)

    def test_no_round_is_empty(self) -> None:
        sizes = strategy_of("sage", rounds=100).round_sizes(1.2, ROWS)
        assert min(sizes) > 0

    def test_a_budget_smaller_than_the_warm_up_is_all_warm_up(self) -> None:
        assert strategy_of("sage", warmup_epochs=2.0).round_sizes(1.0, ROWS) == [ROWS]


# What a round may look like: a method, changes of it, and what leads it.
ROUNDS = {
    "sage by rows": ("sage", {"targeting": "rows"}, None),
    "sage by region": ("sage", {"targeting": "region"}, None),
    "sage, shifted": ("sage", {"lift": "shift"}, None),
    "sage, all kept": ("sage", {"candidates": 1.0}, None),
    "sage, many candidates": ("sage", {"candidates": 3.7, "synthetic_ratio": 2.0}, None),
    "sage led by rad": ("sage", {}, "rad"),
    "sage of real rows": ("sage", {"synthetic_ratio": 0.0}, None),
    "sage without a warm-up": ("sage", {"warmup_epochs": 0.0}, None),
    "random anchors": ("random_anchors", {}, None),
    "random anchors, spliced": ("random_anchors", {"lift": "splice"}, None),
    "oversampling by rows": ("oversample", {"targeting": "rows"}, None),
    "oversampling by region": ("oversample", {"targeting": "region"}, None),
    "oversampling led by rad": ("oversample", {"targeting": "region"}, "rad"),
    "plain distillation": ("kd", {}, None),
}
EPOCHS = 3.0


class TestNeeds:
    @pytest.mark.parametrize("kind", ROUNDS)
    def test_the_map_is_asked_for_by_those_that_need_it_and_by_no_other(self, kind: str) -> None:
        """Harm: beside a training that never looks at it a map of all rows is fitted, which takes its processor."""
        method, changes, leader = ROUNDS[kind]
        strategy, surroundings = strategy_of(method, led_by=leader, **changes), context()
        asked: list[int] = []

        def synthesizer(neighbors: int) -> Synthesizer:
            asked.append(neighbors)
            return surroundings.synthesizer(neighbors)

        for number, size in enumerate(strategy.round_sizes(EPOCHS, ROWS)):
            strategy.plan_round(number, size, 0, replace(surroundings, synthesizer=synthesizer))
            surroundings.choice.forget()
        assert bool(asked) == strategy.needs_projection

    @pytest.mark.parametrize("kind", ROUNDS)
    def test_those_that_need_no_vectors_draw_the_same_without_them(self, kind: str) -> None:
        """Harm: a gigabyte is pooled for rows that are made of words; or it is not, and other rows are drawn."""
        method, changes, leader = ROUNDS[kind]
        with_them, without = (strategy_of(method, led_by=leader, **changes) for _ in range(2))
        if with_them.needs_vectors:
            assert changes.get("lift", METHODS[method]["lift"]) == "shift"
            return
        for number, size in enumerate(with_them.round_sizes(EPOCHS, ROWS)):
            one = with_them.plan_round(number, size, 0, context())
            other = without.plan_round(number, size, 0, context(has_vectors=False))
            np.testing.assert_array_equal(one.rows, other.rows)
            if one.synthetic is not None:
                np.testing.assert_array_equal(one.synthetic.splices, other.synthetic.splices)


class TestQuestions:
    @pytest.mark.parametrize("at_once", [65_536, 25])
    @pytest.mark.parametrize("learnt", [ROWS, 70])
    @pytest.mark.parametrize("kind", ROUNDS)
    def test_are_what_each_round_asks(
        self, kind: str, learnt: int, at_once: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a progress that stands still while the models answer, or is through before they have."""
        monkeypatch.setattr("worker.distill.strategies.guided._CANDIDATES_AT_ONCE", at_once)
        method, changes, leader = ROUNDS[kind]
        strategy, surroundings = strategy_of(method, led_by=leader, **changes), context(np.arange(ROWS)[-learnt:])
        asked = {"teacher": 0, "student": 0}

        def score(objective: Objective, rows: np.ndarray) -> np.ndarray:
            asked["student"] += len(rows)
            return surroundings.score(objective, rows)

        def label(drawn: Points | Splices) -> SyntheticRows:
            asked["teacher"] += len(drawn)
            return surroundings.label(drawn)

        def score_synthetic(objective: Objective, synthetic: SyntheticRows) -> np.ndarray:
            asked["student"] += len(synthetic)
            return surroundings.score_synthetic(objective, synthetic)

        heard = replace(surroundings, score=score, label=label, score_synthetic=score_synthetic)
        sizes, planned = strategy.round_sizes(EPOCHS, ROWS), strategy.questions(EPOCHS, ROWS, learnt)
        for number, (size, questions) in enumerate(zip(sizes, planned, strict=True)):
            asked |= {"teacher": 0, "student": 0}
            strategy.plan_round(number, size, 0, heard)
            heard.choice.forget()
            assert asked == {"teacher": questions.teacher, "student": questions.student}

    def test_a_round_of_so_few_rows_that_none_is_added_asks_only_for_its_scores(self) -> None:
        questions = strategy_of("sage", synthetic_ratio=0.001).questions(EPOCHS, ROWS, ROWS)
        assert [(each.teacher, each.student) for each in questions] == [(0, 0), (0, 100), (0, 100)]


class TestSage:
    def test_the_warm_up_sees_real_rows_only(self) -> None:
        plan = strategy_of("sage").plan_round(0, ROWS, 0, context())
        assert plan.synthetic is None
        assert sorted(plan.rows) == list(range(ROWS))

    def test_a_round_mixes_real_and_synthetic_rows_in_the_ratio_asked_for(self) -> None:
        plan = strategy_of("sage").plan_round(1, 90, 0, context())
        assert (plan.rows >= ROWS).sum() == 30
        assert (plan.rows < ROWS).sum() == 60

    # The weak rows have 0.8 of all loss.
    @pytest.mark.parametrize(("targeting", "share"), [("rows", 0.7), ("region", 0.8)])
    def test_synthetic_rows_stand_where_the_student_is_weak(self, targeting: str, share: float) -> None:
        plan = strategy_of("sage", targeting=targeting).plan_round(1, 90, 0, context())
        assert np.isin(plan.synthetic.anchors, WEAK).mean() > share

    def test_a_weak_row_far_from_other_weak_ones_is_found_by_its_own_loss(self) -> None:
        losses = np.full(ROWS, 0.1, np.float32)
        losses[7] = 20.0
        by_rows, by_region = (
            strategy_of("sage", targeting=targeting, candidates=1.0, scored_rows=ROWS)
            .plan_round(1, 90, 0, context(losses=losses))
            .synthetic
            for targeting in ("rows", "region")
        )
        assert (by_rows.anchors == 7).mean() > 0.4
        assert (by_region.anchors == 7).mean() < 0.3

    def test_the_neighbour_that_lends_its_words_is_drawn_by_its_loss_too(self) -> None:
        losses = np.zeros(ROWS, np.float32)
        losses[WEAK[:3]] = 1.0
        # Every other row of the heap is a neighbour.
        sage = strategy_of("sage", candidates=1.0, neighbors=len(WEAK) - 1, scored_rows=ROWS)
        plan = sage.plan_round(1, 90, 0, context(losses=losses))
        assert set(plan.synthetic.anchors) == set(plan.synthetic.splices[:, 0]) == set(WEAK[:3])

    def test_new_rows_start_from_rows_that_were_scored(self) -> None:
        asked: list[np.ndarray] = []
        surroundings = context()

        def score(objective: Objective, rows: np.ndarray) -> np.ndarray:
            asked.append(rows)
            return surroundings.score(objective, rows)

        sage = strategy_of("sage", scored_rows=30, candidates=1.0, synthetic_ratio=4.0)
        plan = sage.plan_round(1, 500, 0, replace(surroundings, score=score))
        assert [len(rows) for rows in asked] == [30]
        assert set(plan.synthetic.anchors) <= set(asked[0])
        assert not set(plan.synthetic.splices[:, 0]) <= set(asked[0]), "but any neighbour lends its words"

    @pytest.mark.parametrize("method", ["sage", "oversample"])
    def test_a_region_is_drawn_to_no_row_by_its_having_a_label(self, method: str) -> None:
        """Harm: where a tenth of the rows is labelled, the label's part of the loss makes the region of those alone."""
        plain = context()
        labels = np.where(np.arange(ROWS) < 12, 0, NO_LABEL)
        alphas = []
        for split in (plain.split, replace(plain.split, labels=labels)):

            def score(objective: Objective, rows: np.ndarray) -> np.ndarray:
                assert isinstance(objective, KnowledgeDistillation)
                alphas.append(objective.alpha)
                return plain.score(objective, rows)

            run = replace(plain, split=split, score=score)
            assert strategy_of(method, targeting="region").plan_round(1, 60, 0, run) is not None
        assert alphas == [0.9, 1.0]

    def test_the_same_round_of_the_same_seed_is_the_same(self) -> None:
        first, second = (strategy_of("sage").plan_round(1, 90, 0, context()) for _ in range(2))
        np.testing.assert_array_equal(first.rows, second.rows)
        np.testing.assert_array_equal(first.synthetic.anchors, second.synthetic.anchors)
        np.testing.assert_array_equal(first.synthetic.splices, second.synthetic.splices)
        another = strategy_of("sage").plan_round(2, 90, 0, context())
        assert not np.array_equal(first.synthetic.splices, another.synthetic.splices)

    def test_of_candidates_those_are_kept_that_the_student_is_worst_on(self) -> None:
        sages = [strategy_of("sage", targeting="region", candidates=many) for many in (1.0, 4.0)]
        plans = [sage.plan_round(1, 90, 0, context()) for sage in sages]
        (all_kept, few_kept), (told_of_all, told_of_few) = zip(*((p.synthetic, p.facts) for p in plans), strict=True)
        assert len(all_kept) == len(few_kept) == 30
        assert np.isin(few_kept.anchors, WEAK).mean() > 0.8
        assert loss_of(few_kept).mean() > loss_of(all_kept).mean() + 2
        assert told_of_few["kept_loss"] == loss_of(few_kept).mean() > told_of_few["candidate_loss"]
        assert not {"kept_loss", "candidate_loss"} & set(told_of_all)

    def test_candidates_are_there_for_some_of_a_round_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: memory that grows with the rows."""
        monkeypatch.setattr("worker.distill.strategies.guided._CANDIDATES_AT_ONCE", 15)
        surroundings, seen = context(), []

        def label(drawn: Points | Splices) -> SyntheticRows:
            seen.append(len(drawn))
            return surroundings.label(drawn)

        plan = strategy_of("sage", candidates=2.5).plan_round(1, 90, 0, replace(surroundings, label=label))
        assert len(plan.synthetic) == len(plan.synthetic.splices) == 30
        assert seen == [15] * 5
        assert sorted(plan.rows[plan.rows >= ROWS]) == list(range(ROWS, ROWS + 30))

    @pytest.mark.parametrize("candidates", [1.0, 4.0])
    @pytest.mark.parametrize("good", [10, 0])
    def test_real_rows_fill_the_round_where_new_ones_were_refused(self, good: int, candidates: float) -> None:
        """Harm: a budget smaller than that of the methods beside it, or rows that are nowhere."""
        surroundings = context()

        def label(drawn: Points | Splices) -> SyntheticRows:
            return surroundings.label(drawn).taken(np.arange(good))

        sage = strategy_of("sage", candidates=candidates)
        plan = sage.plan_round(1, 90, 0, replace(surroundings, label=label))
        real, new = plan.rows[plan.rows < ROWS], plan.rows[plan.rows >= ROWS]
        assert len(plan.synthetic) == plan.facts["extra_rows"] == good
        assert sorted(new) == list(range(ROWS, ROWS + good))
        assert len(real) == len({*real}) == 90 - good
        assert all(np.isfinite(value) for value in plan.facts.values())
        # The next round goes on where the real rows ended.
        following = sage.plan_round(2, 90, 0, context())
        rest = [row for row in following.rows if row < ROWS][: ROWS - len(real)]
        assert not {*real} & {*rest}

    def test_rows_are_made_as_the_lift_says(self) -> None:
        spliced, shifted = (
            strategy_of("sage", lift=lift).plan_round(1, 90, 0, context()).synthetic for lift in ("splice", "shift")
        )
        assert spliced.splices.shape == (30, 4)
        assert spliced.sources is None
        assert shifted.splices is None
        assert shifted.weights.shape == (30, 5)

    def test_stops_after_two_rounds_in_which_the_loss_did_not_shrink(self) -> None:
        sage = strategy_of("sage", early_stopping=True, scored_rows=ROWS)
        plans = [sage.plan_round(number, 90, 0, context()) for number in (1, 2, 3)]
        assert [plan is None for plan in plans] == [False, False, True]

    def test_stops_when_validation_gains_nothing_any_more(self) -> None:
        sage = strategy_of("sage", early_stopping=True)
        assert sage.plan_round(1, 90, 2, context()) is None

    def test_goes_on_where_early_stopping_is_off(self) -> None:
        sage = strategy_of("sage")
        assert all(sage.plan_round(number, 90, 5, context()) is not None for number in range(1, 6))

    def test_its_state_survives_json(self) -> None:
        import json

        sage = strategy_of("sage")
        sage.plan_round(1, 90, 0, context())
        other = strategy_of("sage")
        other.load_state_dict(json.loads(json.dumps(sage.state_dict())))
        np.testing.assert_array_equal(
            other.plan_round(2, 90, 0, context()).rows, sage.plan_round(2, 90, 0, context()).rows
        )


class TestControls:
    def test_random_anchors_come_from_everywhere_and_nobody_is_scored(self) -> None:
        surroundings = context()
        plan = strategy_of("random_anchors", synthetic_ratio=4.0).plan_round(1, 500, 0, surroundings)
        weak_share = np.isin(plan.synthetic.anchors, WEAK).mean()
        assert weak_share == pytest.approx(len(WEAK) / ROWS, abs=0.1)

    def test_oversampling_repeats_weak_rows_with_their_labels(self) -> None:
        plan = strategy_of("oversample").plan_round(1, 90, 0, context())
        assert plan.synthetic is None
        assert (plan.rows < ROWS).all()
        assert np.isin(plan.rows, WEAK).sum() > 25
