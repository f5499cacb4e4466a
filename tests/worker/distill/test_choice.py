"""A round's choice of new rows is in the checkpoints until it is over."""

import json
import shutil
import signal
from collections.abc import Callable
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

# With test_runs: what these runs begin with, the map above all, is made once in a process.
pytestmark = pytest.mark.xdist_group("engine_runs")

Runner = Callable[[Path], Path]

# A second kind of rows, and all that is known of them: points, whose teacher's features are learnt from.
SHIFTED: dict[str, Any] = {"method__lift": "shift", "combine": [METHODS["lelp"]]}
AT_ONCE: dict[str, Any] = {"method__warmup_epochs": 0.0}


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
    """Run a folder to its end, stopped after each batch of a choice; returns how often it was."""

    def run(folder: Path) -> int:
        told = [False]
        for said in ("teacher_said", "student_said"):
            told_before = getattr(Choice, said)

            def tell(choice: Choice, so_far: Any, told_before: Any = told_before) -> None:
                told[0] = True
                told_before(choice, so_far)

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


class TestChoice:
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
        # Two rounds of two parts, each answered by teacher and student in two batches or more.
        assert stops == len(undisturbed) >= 2 * 2 * 2 * 2
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

    def test_is_nothing_to_rows_that_were_not_drawn_then(self, make: Callable[..., Path], run_engine: Runner) -> None:
        """Harm: a run goes on on another machine, where the losses, and so the rows drawn by them, are a little
        different, and these get the answers to other texts."""
        expected = made_by(run_engine(make("whole", "sage")))
        folder = make("killed", "sage", checkpoint_seconds=0.0)
        dies_after(folder, 2)
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            file = checkpoint / "choice.safetensors"
            if file.exists():
                arrays = load_file(file)
                save_file({name: array if name == "losses" else -array for name, array in arrays.items()}, file)
                record = json.loads((checkpoint / "state.json").read_text())
                record["choice"]["asked_sha256"] = "of others"
                (checkpoint / "state.json").write_text(json.dumps(record))
        assert made_by(run_engine(folder)) == expected

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
