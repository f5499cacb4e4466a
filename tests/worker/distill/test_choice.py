"""A round's choice of new rows is in the checkpoints until it is over."""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.worker.distill.forked_engine import Instant, fork_engine
from tests.worker.distill.test_resume import exactness_of_resumes
from tests.worker.distill.tiny_runs import METHODS, events_of, make_run
from worker.distill import exit_codes, guidance, labelling
from worker.distill.checkpoint import ArmState, list_checkpoints, load_latest
from worker.distill.choice import Choice, ChoiceState
from worker.distill.errors import Stopped
from worker.distill.events import EventLog
from worker.distill.loop import distil
from worker.distill.progress import Progress
from worker.distill.rows import Predictions
from worker.distill.splicing import Splices
from worker.distill.synthesis import Points

# With test_runs: what these runs begin with, the map above all, is made once in a process.
pytestmark = pytest.mark.xdist_group("engine_runs")

Runner = Callable[[Path], Path]

# A second kind of rows, and all that is known of them: points, whose teacher's features are learnt from.
SHIFTED: dict[str, Any] = {"method__lift": "shift", "combine": [METHODS["lelp"]]}
AT_ONCE: dict[str, Any] = {"method__warmup_epochs": 0.0}

ROWS = np.arange(3)
LOSSES = np.array([0.5, 0.25, 1.0], np.float32)
DRAWN = Splices(np.arange(2), np.arange(8).reshape(2, 4))
DRAWN_NEXT = Splices(np.arange(2), np.arange(8).reshape(2, 4) + 1)
SAID = Predictions(np.ones((2, 3), np.float32), None)


@pytest.fixture
def make(tmp_path: Path, projections: Path, run_engine: Runner) -> Callable[..., Path]:
    """A run whose map is known by then, by whichever test came first."""
    run_engine(make_run(tmp_path / "first", "sage"))

    def make_folder(name: str, method: str, **changes: Any) -> Path:
        folder = make_run(tmp_path / name, method, **changes)
        shutil.copytree(projections, folder / "cache" / "projections")
        return folder

    return make_folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many made rows each batch had that a model was asked about."""
    batches: list[int] = []
    ask = labelling.predict_batches

    def counted(*arguments: Any, after_batch: Callable[[int], None], **named: Any) -> Any:
        def after(rows: int) -> None:
            batches.append(rows)
            after_batch(rows)

        return ask(*arguments, after_batch=after, **named)

    monkeypatch.setattr(labelling, "predict_batches", counted)
    return batches


@pytest.fixture
def run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """Run a folder to its end, stopped after the scoring and after each batch of a choice; returns how often it was."""

    def run(folder: Path) -> int:
        told = [False]
        for said in ("lead", "teacher_said", "student_said"):
            told_before = getattr(Choice, said)

            def tell(choice: Choice, *what: Any, told_before: Any = told_before) -> None:
                told[0] = True
                told_before(choice, *what)

            monkeypatch.setattr(Choice, said, tell)
        stops = 0
        while True:
            told[0] = False
            events = EventLog(folder / "events.jsonl")
            try:
                distil(folder, events, lambda: told[0])
            except Stopped:
                stops += 1
                assert stops < 100, "it does not get on"
            else:
                return stops
            finally:
                events.close()

    return run


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What each part of a run, as it was over, had come to in the progress."""
    parts: list[tuple[str, float]] = []
    complete = Progress.complete

    def told(progress: Progress, part: str) -> None:
        parts.append((part, progress.done(part)))
        complete(progress, part)

    monkeypatch.setattr(Progress, "complete", told)
    return parts


class TestRounds:
    @pytest.mark.parametrize("changes", [{}, SHIFTED, AT_ONCE], ids=["spliced", "shifted", "before any step"])
    def test_stopped_after_each_of_its_batches_asks_no_row_twice_and_changes_nothing(
        self,
        changes: dict[str, Any],
        make: Callable[..., Path],
        run_engine: Runner,
        run_in_pieces: Callable[[Path], int],
        asked: list[int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Harm: a job whose choice takes longer than its workers live never ends."""
        monkeypatch.setattr("worker.distill.strategies.guided._CANDIDATES_AT_ONCE", 60)
        monkeypatch.setattr("worker.distill.predict._PROCESSOR_BATCH_TOKENS", 256)
        monkeypatch.setattr("worker.distill.progress._REPORT_EVERY_SECONDS", 0.0)
        expected = made_by(run_engine(make("whole", "sage", **changes)))
        undisturbed = list(asked)
        asked.clear()
        folder = make("stopped", "sage", **changes)
        stops = run_in_pieces(folder)
        # Two rounds, each led by losses, of two parts, each answered by teacher and student in two batches or more.
        assert stops == 2 + len(undisturbed)
        assert len(undisturbed) >= 2 * 2 * 2 * 2
        assert asked == undisturbed
        assert made_by(folder / "artifact") == expected
        assert exactness_of_resumes(folder) == [True] * stops
        shares = [event["progress"] for event in events_of(folder, "progress")]
        np.testing.assert_allclose(shares, np.maximum.accumulate(shares), atol=1e-9)
        assert shares[-1] == pytest.approx(1.0)

    @pytest.mark.parametrize(("method", "batch"), [("sage", 1), ("sage", 2), ("sage", 3), ("random_anchors", 2)])
    def test_killed_after_a_batch_it_goes_on_from_there(
        self, method: str, batch: int, make: Callable[..., Path], run_engine: Runner, asked: list[int]
    ) -> None:
        expected = made_by(run_engine(make("whole", method)))
        undisturbed = list(asked)
        asked.clear()
        folder = make("killed", method, checkpoint_seconds=0.0)
        dies_after(folder, batch)
        arm, choice = arm_of(folder)
        assert (choice.scored is None) == (method == "random_anchors" or batch % 2 == 1)
        assert choice.labelled is not None
        assert len(choice.labelled.logits) == (50 if method == "random_anchors" else 100)
        # What leads the choice under way comes about again, and is not to be counted twice.
        assert len(arm.position.strategy["masses"]) == (1 if batch == 3 else 0)
        assert made_by(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]
        assert asked == undisturbed[batch:]

    @pytest.mark.parametrize(
        ("differs", "stays"),
        [
            pytest.param("drawn_sha256", ["losses"], id="other rows drawn"),
            pytest.param("led_by_sha256", [], id="other rows scored"),
            pytest.param("by", [], id="another teacher"),
        ],
    )
    def test_is_dropped_where_it_is_of_something_else(
        self,
        differs: str,
        stays: list[str],
        make: Callable[..., Path],
        run_engine: Runner,
        asked: list[int],
        works: list[tuple[str, float]],
    ) -> None:
        """Harm: a run goes on on another machine, with a teacher that was tuned anew, or under another release, and
        its rows get the answers to other texts, or another teacher's; or their work is counted twice."""
        expected = made_by(run_engine(make("whole", "sage")))
        expected_works, undisturbed = list(works), list(asked)
        for disturbed in (works, asked):
            disturbed.clear()
        folder = make("killed", "sage", checkpoint_seconds=0.0)
        dies_after(folder, 2)
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            file = checkpoint / "choice.safetensors"
            if file.exists():
                arrays = load_file(file)
                save_file({name: array if name in stays else -array for name, array in arrays.items()}, file)
                record = json.loads((checkpoint / "state.json").read_text())
                record["choice"][differs] = "of others"
                (checkpoint / "state.json").write_text(json.dumps(record))
        assert made_by(run_engine(folder)) == expected
        assert asked == undisturbed
        assert [part for part, _ in works] == [part for part, _ in expected_works]
        np.testing.assert_allclose([work for _, work in works], [work for _, work in expected_works])

    def test_goes_on_by_the_losses_that_led_it(
        self, make: Callable[..., Path], run_engine: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: another processor's losses are a little different, and by those another region is drawn from: all that
        was asked is asked again."""
        scored: list[int] = []
        ask = guidance.predict_logits

        def counted(*arguments: Any, rows: np.ndarray, **named: Any) -> np.ndarray:
            scored.append(len(rows))
            return ask(*arguments, rows=rows, **named)

        monkeypatch.setattr(guidance, "predict_logits", counted)
        expected = made_by(run_engine(make("whole", "sage")))
        assert scored == [100, 100]
        folder = make("killed", "sage", checkpoint_seconds=0.0)
        dies_after(folder, 1)
        scored.clear()
        assert made_by(run_engine(folder)) == expected
        assert scored == [100]

    def test_is_made_anew_by_a_release_that_does_not_know_of_it(
        self, make: Callable[..., Path], run_engine: Runner
    ) -> None:
        """Harm: while workers are replaced one by one, an older one takes the job and can only fail it; or it goes on
        from half of a choice."""
        expected = made_by(run_engine(make("whole", "sage")))
        folder = make("killed", "sage", checkpoint_seconds=0.0)
        dies_after(folder, 3)
        newest = list_checkpoints(folder / "checkpoints")[-1]
        record = json.loads((newest / "state.json").read_text())
        assert record["format_version"] == 5
        assert record["plan_facts"] is None
        assert record.pop("choice")["parts"] == 0
        (newest / "state.json").write_text(json.dumps(record))
        assert made_by(run_engine(folder)) == expected

    def test_is_saved_at_sigterm(self, make: Callable[..., Path], run_engine: Runner) -> None:
        """Harm: what was asked since the last checkpoint is lost each time that a worker is replaced."""
        expected = made_by(run_engine(make("whole", "sage")))
        folder = make("stopped", "sage")
        told = Instant("worker.distill.guidance:label_rows", 2, "before", signal.SIGTERM)
        engine = fork_engine(folder, told)
        engine.join()
        assert engine.exitcode == exit_codes.STOPPED
        _, choice = arm_of(folder)
        assert choice.labelled is not None
        assert choice.scored is None
        assert made_by(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]


class TestChoice:
    def choice(self, by: str = "teacher") -> tuple[Choice, list[float]]:
        lost: list[float] = []
        return Choice(by, lost.append), lost

    def part_way(self) -> Choice:
        """One that has made a part, and asked both models about half of the next."""
        choice, _ = self.choice()
        choice.spend(1.0)
        choice.lead(LOSSES, ROWS, "kd")
        choice.begin_part(DRAWN)
        choice.spend(2.0)
        choice.end_part(DRAWN.taken(np.arange(1)).labelled(SAID.logits[:1]), LOSSES, LOSSES[:1])
        choice.begin_part(DRAWN_NEXT)
        choice.spend(4.0)
        choice.teacher_said(lambda: SAID)
        choice.spend(8.0)
        choice.student_said(lambda: SAID)
        return choice

    def resumed(self, by: str = "teacher") -> tuple[Choice, list[float]]:
        state = self.part_way().state()
        assert state is not None
        choice, lost = self.choice(by)
        choice.go_on_from(state)
        return choice, lost

    def test_goes_on_with_all_that_was_said(self) -> None:
        choice, lost = self.resumed()
        np.testing.assert_array_equal(choice.losses(ROWS, "kd"), LOSSES)
        assert choice.parts == 1
        choice.begin_part(DRAWN_NEXT)
        assert choice.labelled is choice.scored is SAID
        assert (choice.work, lost) == (15.0, [])

    @pytest.mark.parametrize(("rows", "of"), [(ROWS[::-1], "kd"), (ROWS, "another")])
    def test_led_by_other_losses_it_begins_anew(self, rows: np.ndarray, of: str) -> None:
        choice, lost = self.resumed()
        assert choice.losses(rows, of) is None
        assert choice.parts == 0
        assert choice.labelled is choice.scored is choice.state() is None
        assert (choice.work, lost) == (0.0, [15.0])

    def test_answered_by_another_teacher_it_begins_anew(self) -> None:
        choice, lost = self.resumed("another teacher")
        assert choice.losses(ROWS, "kd") is choice.state() is None
        # Nothing was counted yet, so nothing is to be given back.
        assert (choice.work, lost) == (0.0, [])

    def test_of_other_rows_the_part_under_way_alone_begins_anew(self) -> None:
        choice, lost = self.resumed()
        choice.begin_part(DRAWN)
        assert choice.parts == 1
        assert choice.labelled is choice.scored is None
        assert (choice.work, lost) == (3.0, [12.0])

    def test_points_a_hair_away_are_those_that_were_drawn(self) -> None:
        """Harm: another processor multiplies a little otherwise, and all that was asked is asked again."""
        points = Points(
            anchors=np.arange(2),
            sources=np.arange(4, dtype=np.int32).reshape(2, 2),
            weights=np.full((2, 2), 0.5, np.float32),
            coordinates=np.ones((2, 2), np.float32),
            drawn=np.arange(4).reshape(2, 2),
            distances=np.ones(2, np.float32),
        )
        choice, lost = self.choice()
        choice.begin_part(points)
        choice.spend(1.0)
        choice.teacher_said(lambda: SAID)
        choice.begin_part(replace(points, coordinates=np.nextafter(points.coordinates, np.float32(2))))
        assert choice.labelled is SAID
        choice.begin_part(replace(points, sources=points.sources[::-1]))
        assert choice.labelled is None
        assert lost == [0.0, 1.0]

    def test_what_is_asked_again_after_a_loss_is_not_where_it_was(self) -> None:
        """Harm: the place of what was dropped is taken for that of the newest checkpoint, and a stop there saves
        nothing: the next run drops it again."""
        choice, _ = self.resumed()
        places = [choice.changes]
        choice.begin_part(DRAWN)
        for say in (choice.teacher_said, choice.student_said):
            choice.spend(6.0)
            say(lambda: SAID)
            places.append(choice.changes)
        assert choice.work == 15.0
        assert len(set(places)) == len(places)


def made_by(artifact: Path) -> tuple[str, dict[str, Any]]:
    """The student's hash, and the record of each round: the best one may be the warm-up."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    return manifest["content_sha256"], manifest["arms"]


def dies_after(folder: Path, batch: int) -> None:
    """A checkpoint of it is written after each batch; the whole of what is asked of a model is one."""
    at = Instant("worker.distill.labelling:predict_batches", batch, "after")
    engine = fork_engine(folder, at)
    engine.join()
    assert engine.exitcode == -signal.SIGKILL


def arm_of(folder: Path) -> tuple[ArmState, ChoiceState]:
    state = load_latest(folder / "checkpoints")
    assert state is not None
    assert state.arm_state is not None
    assert state.arm_state.choice is not None
    return state.arm_state, state.arm_state.choice
