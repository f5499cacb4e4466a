"""What a strategy asks of a run, by a real teacher and student."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.distill.test_vectors import load
from tests.worker.distill.tiny_runs import METHODS, events_of, make_run
from worker.distill.config import JobConfig, MethodConfig
from worker.distill.coordinates import Coordinates
from worker.distill.events import EventLog
from worker.distill.families import word_table
from worker.distill.guidance import Guidance
from worker.distill.methods.registry import Recipe, build_recipe
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.objectives import Answers, KnowledgeDistillation, Objective
from worker.distill.predict import predict_logits
from worker.distill.progress import Progress
from worker.distill.rows import Predictions
from worker.distill.run_cache import RunCache
from worker.distill.stopwatch import Stopwatch
from worker.distill.strategies.base import RoundPlan
from worker.distill.student import TeacherLayersStudent


@dataclass(frozen=True)
class Bench:
    """A run whose map is known, before it begins."""

    folder: Path
    job: JobConfig
    table: torch.Tensor
    teacher: Predictions
    student: Network
    progress: Progress
    make: Callable[[], Guidance]

    def plans(self, guidance: Guidance, recipe: Recipe) -> list[RoundPlan]:
        """Of every round, by the student as it is; the phase changes after each."""
        split = guidance.split
        context = guidance.context("student", 3, self.student, self.teacher, split, np.arange(len(split)))
        plans = []
        for number, size in enumerate(recipe.strategy.round_sizes(self.job.training.epochs, len(split))):
            plan = recipe.strategy.plan_round(number, size, 0, context)
            assert plan is not None
            plans.append(plan)
            context.choice.forget()
            self.progress.enter("training", number + 1)
        return plans


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
    job = JobConfig.load(tmp_path / "run/job.json")
    events = EventLog(tmp_path / "events.jsonl")
    teacher, progress = build_network(model, compute), Progress(events)
    student = build_network(TeacherLayersStudent(job.student).wrap(teacher.model, compute), compute)
    said = Predictions(predict_logits(teacher, dataset.train, compute.device), None)
    known = np.random.default_rng(0).normal(size=(len(dataset.train), 2)).astype(np.float32)

    def make() -> Guidance:
        return Guidance(
            split=dataset.train,
            teacher=teacher,
            classes=len(dataset.labels),
            coordinates=Coordinates(
                tmp_path,
                RunCache(tmp_path, events),
                "map",
                tokens_sha256=dataset.tokens_sha256,
                resumed=known,
                is_resumed=True,
            ),
            compute=compute,
            watch=Stopwatch(),
            progress=progress,
            check_stop=lambda: None,
        )

    return Bench(tmp_path, job, word_table(model).detach(), said, student, progress, make)


class Counting(Objective):
    """The distance to the teacher and to the label, and of how many rows at once it was asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._losses = KnowledgeDistillation(temperature=2.0, alpha=0.5)

    def __call__(self, answers: Answers) -> torch.Tensor:
        self.rows.append(len(answers.labels))
        return self._losses(answers)


def recipe_of(method: str, **changes: Any) -> Recipe:
    entry = METHODS[method] | changes
    return build_recipe([MethodConfig(entry.pop("type"), entry)])


class TestBegin:
    def test_a_known_map_spares_the_pooling_and_spliced_rows_stay_what_they_are(self, bench: Bench) -> None:
        """Harm: each attempt at a large job pools a gigabyte that no row is made of."""
        pooled, spared = bench.make(), bench.make()
        spared.begin(bench.table, bench.folder, shifts=False)
        assert not (bench.folder / "vectors.npy").exists()
        pooled.begin(bench.table, bench.folder, shifts=True)
        assert pooled.vectors is not None
        assert pooled.vectors.shape == (len(pooled.split), bench.table.shape[1])
        by_both = [bench.plans(guidance, recipe_of("sage", targeting="region")) for guidance in (pooled, spared)]
        for one, other in zip(*by_both, strict=True):
            np.testing.assert_array_equal(one.rows, other.rows)
            assert one.facts == other.facts
            if one.synthetic is not None:
                assert other.synthetic is not None
                for name, array in one.synthetic.arrays().items():
                    np.testing.assert_array_equal(array, other.synthetic.arrays()[name])

    def test_rows_are_pooled_for_those_that_shift_them(self, bench: Bench) -> None:
        guidance, recipe = bench.make(), recipe_of("random_anchors", lift="shift")
        guidance.begin(bench.table, bench.folder, shifts=recipe.strategy.needs_vectors)
        *_, plan = bench.plans(guidance, recipe)
        assert plan.synthetic is not None
        assert np.isfinite(plan.synthetic.teacher_logits).all()

    def test_real_rows_are_scored_alike_however_many_at_a_time(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: with all rows scored and thousands of classes their losses take all memory, an hour after the start;
        or, in parts, are other rows'."""
        guidance, rows = bench.make(), np.arange(0, 150, 3)
        context = guidance.context("student", 3, bench.student, bench.teacher, guidance.split, np.arange(150))
        whole = context.score(plain := Counting(), rows)
        context.choice.forget()
        monkeypatch.setattr("worker.distill.rows._LOGITS_AT_ONCE", 21)
        in_parts = context.score(parted := Counting(), rows)
        np.testing.assert_array_equal(in_parts, whole)
        assert plain.rows == [50]
        assert parted.rows == [7] * 7 + [1]

    def test_candidates_are_judged_alike_however_many_at_a_time(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: with thousands of classes their losses take all memory at once, or, in parts, are other rows'."""
        plans = []
        for logits in (2**24, 20):
            monkeypatch.setattr("worker.distill.rows._LOGITS_AT_ONCE", logits)
            guidance, recipe = bench.make(), recipe_of("sage")
            guidance.begin(bench.table, bench.folder, shifts=False)
            plans.append(bench.plans(guidance, recipe))
        for whole, in_parts in zip(*plans, strict=True):
            assert whole.facts == in_parts.facts
            if whole.synthetic is not None:
                assert in_parts.synthetic is not None
                np.testing.assert_array_equal(whole.synthetic.anchors, in_parts.synthetic.anchors)
                np.testing.assert_array_equal(whole.synthetic.splices, in_parts.synthetic.splices)


# With test_runs: their map is made once.
@pytest.mark.xdist_group("engine_runs")
class TestWholeRuns:
    @pytest.mark.parametrize("leader", [[], [METHODS["rad"]]])
    def test_no_map_is_fitted_for_rows_that_are_looked_at_one_by_one(
        self, leader: list[dict[str, Any]], tmp_path: Path, run_engine: Callable[[Path], Path]
    ) -> None:
        """Harm: UMAP beside the whole training, and all rows' vectors in memory, for a map that nothing reads."""
        targeting = "region" if leader else "rows"  # which a leader takes the place of
        folder = make_run(tmp_path / "run", "oversample", combine=leader, method__targeting=targeting)
        run_engine(folder)
        assert [event["extra_rows"] for event in events_of(folder, "round") if "extra_rows" in event] == [50, 50]
        assert not (folder / "vectors.npy").exists()
        assert not list(folder.glob("projection-*"))

    def test_a_known_map_spares_the_pooling(self, tmp_path: Path, run_engine: Callable[[Path], Path]) -> None:
        first, second = (make_run(tmp_path / name, "sage") for name in ("first", "second"))
        students = [run_engine(folder) / "model.safetensors" for folder in (first, second)]
        assert students[0].read_bytes() == students[1].read_bytes()
        assert not (second / "vectors.npy").exists()


class TestQuestions:
    @pytest.mark.parametrize("method", ["sage", "oversample", "kd"])
    def test_advance_the_progress_by_what_was_planned_for_them(self, method: str, bench: Bench) -> None:
        guidance, recipe = bench.make(), recipe_of(method)
        guidance.begin(bench.table, bench.folder, shifts=False)
        work = guidance.work_of_questions(recipe, bench.job.training, bench.job.student.layers)
        bench.progress.plan("student", 100.0 + sum(work))
        bench.plans(guidance, recipe)
        assert any(work) == (method != "kd")
        # A phase begins after its round's questions, with a report.
        events = itertools.pairwise(events_of(bench.folder, "phase", "progress"))
        shares = [after["progress"] for before, after in events if before["type"] == "phase"]
        assert shares == pytest.approx(list(np.cumsum(work) / (100.0 + sum(work))))

    def test_each_batch_of_answers_is_reported(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: a bar that stands still for as long as a round's candidates are labelled."""
        monkeypatch.setattr("worker.distill.progress._REPORT_EVERY_SECONDS", 0.0)
        monkeypatch.setattr("worker.distill.predict._PROCESSOR_BATCH_TOKENS", 128)
        guidance, recipe = bench.make(), recipe_of("sage", candidates=4.0)
        guidance.begin(bench.table, bench.folder, shifts=False)
        bench.progress.plan("student", sum(guidance.work_of_questions(recipe, bench.job.training, 2)))
        bench.plans(guidance, recipe)
        shares = [event["progress"] for event in events_of(bench.folder, "progress")]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)
        # In each of two rounds 100 rows are scored and 200 candidates answered by both, of four tokens or more each.
        assert len({*shares}) > 2 * (4 + 7 + 7)
