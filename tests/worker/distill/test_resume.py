"""A run killed at any moment and resumed ends with the same bits as one never killed."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.fixtures.tiny_models import write_tokenizer
from tests.worker.distill.forked_engine import Instant, fork_engine
from tests.worker.distill.tiny_runs import METHODS, VOCABULARY, events_of, make_run, start_engine
from worker.distill import exit_codes
from worker.distill.checkpoint import list_checkpoints, load_latest
from worker.distill.device import Compute, choose_compute
from worker.distill.errors import InvalidJob

# With test_runs: what these runs begin with, the map above all, is made once in a process.
pytestmark = pytest.mark.xdist_group("engine_runs")

# Long enough that kills land in the middle, small enough for seconds.
LONG: dict[str, Any] = {"training__epochs": 12.0, "checkpoint_seconds": 0.05}
# Thirteen batches to a round: a loss is logged after the tenth, and rounds end between two logged ones.
UNEVEN: dict[str, Any] = {"training__batch_size": 12}

SAMPLE = ["sage", "random_anchors", "kd", "fine_tune", "taid", "opdf", "nd", "lelp"]
# What a method that is not whole by itself is run with.
COMPLETED: dict[str, dict[str, Any]] = {name: {"combine": [METHODS["kd"]]} for name in ("opdf", "sinkd", "llkd")} | {
    "nd": {"combine": [METHODS["pld"], METHODS["sinkd"]]},
    "rad": {"combine": [METHODS["oversample"]]},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "method" in metafunc.fixturenames:
        metafunc.parametrize("method", sorted(METHODS) if metafunc.config.getoption("--all-methods") else SAMPLE)


def content_of(artifact: Path) -> tuple[str, bytes]:
    manifest = json.loads((artifact / "manifest.json").read_text())
    return manifest["content_sha256"], (artifact / "model.safetensors").read_bytes()


def exactness_of_resumes(folder: Path) -> list[bool]:
    """What each resume of a run has said of itself. A run that began anew has the same content, and did not resume."""
    return [event["exact_resume"] for event in events_of(folder, "resumed")]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, run_engine: Callable[[Path], Path]) -> Callable[..., Path]:
    """The artifact of a run that is not killed: one run for all tests of the session that ask for the same."""
    artifacts: dict[str, Path] = {}

    def artifact_of(method: str, **changes: Any) -> Path:
        changes.pop("checkpoint_seconds", None)  # it needs no checkpoint to go on from
        kind = json.dumps([method, changes], sort_keys=True)
        if kind not in artifacts:
            artifacts[kind] = run_engine(make_run(tmp_path_factory.mktemp("undisturbed") / "run", method, **changes))
        return artifacts[kind]

    return artifact_of


@pytest.fixture
def make_killed(tmp_path: Path, projections: Path) -> Callable[..., Path]:
    """A run to be killed, after an undisturbed one, whose projection it finds. Of a kill while one is fitted there is a
    test of its own."""

    def make(method: str, **changes: Any) -> Path:
        folder = make_run(tmp_path / "killed", method, **changes)
        shutil.copytree(projections, folder / "cache" / "projections")
        return folder

    return make


def kill_after_checkpoints(folder: Path, count: int, chance: random.Random) -> None:
    """Start the engine, SIGKILL it a random moment after `count` new checkpoints."""
    before = len(events_of(folder, "checkpoint"))
    engine = fork_engine(folder)
    try:
        while len(events_of(folder, "checkpoint")) < before + count:
            assert engine.is_alive(), "the engine ended before it could be killed: make the run longer"
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.08))
    finally:
        engine.kill()
        engine.join()
    assert engine.exitcode == -signal.SIGKILL


class TestExactResume:
    def test_a_run_killed_twice_ends_with_the_same_weights(
        self,
        method: str,
        undisturbed: Callable[..., Path],
        run_engine: Callable[[Path], Path],
        make_killed: Callable[..., Path],
    ) -> None:
        whole = LONG | COMPLETED.get(method, {})
        expected = content_of(undisturbed(method, **whole))
        folder = make_killed(method, **whole)
        chance = random.Random(method)
        kill_after_checkpoints(folder, chance.randint(1, 3), chance)
        kill_after_checkpoints(folder, chance.randint(1, 3), chance)
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True, True]

    @pytest.mark.parametrize("unlabelled_rows", [0, 90])
    def test_a_run_with_tuning_and_a_baseline_killed_in_each_stage_ends_the_same(
        self,
        unlabelled_rows: int,
        undisturbed: Callable[..., Path],
        run_engine: Callable[[Path], Path],
        make_killed: Callable[..., Path],
    ) -> None:
        whole = {"tuned": True, "baselines": [METHODS["fine_tune"]], "training__epochs": 6.0} | {
            "checkpoint_seconds": 0.02,
            "unlabelled_rows": unlabelled_rows,
        }
        expected = content_of(undisturbed("sage", **whole))
        folder = make_killed("sage", **whole)
        for phase in ("teacher_tuning", "training", "baseline"):
            kill_in_phase(folder, phase)
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True, True, True]

    @pytest.mark.parametrize("beside", [("taid", "opdf", "llkd"), ("bd_kd", "nd", "sinkd")])
    def test_methods_together_killed_in_each_round_end_the_same(
        self,
        beside: tuple[str, ...],
        undisturbed: Callable[..., Path],
        run_engine: Callable[[Path], Path],
        make_killed: Callable[..., Path],
    ) -> None:
        whole = LONG | {"combine": [METHODS[method] for method in beside]}
        expected = content_of(undisturbed("sage", **whole))
        folder = make_killed("sage", **whole)
        for count in (1, 3, 3):
            kill_after_checkpoints(folder, count, random.Random(count))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True, True, True]

    def test_a_run_that_looks_for_regions_killed_twice_ends_the_same(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        whole = LONG | {"method__targeting": "region"}
        expected = content_of(undisturbed("sage", **whole))
        folder = make_killed("sage", **whole)
        for count in (1, 4):
            kill_after_checkpoints(folder, count, random.Random(count))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True, True]

    def test_metrics_replayed_after_a_kill_have_the_same_values(
        self, tmp_path: Path, run_engine: Callable[[Path], Path]
    ) -> None:
        folder = make_run(tmp_path / "run", "kd", **UNEVEN)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 2, "before"))
        run_engine(folder)
        values: dict[tuple[str, int], list[float]] = {}
        for event in events_of(folder, "metric"):
            values.setdefault((event["series"], event["step"]), []).append(event["value"])
        replayed = {place: seen for place, seen in values.items() if len(seen) > 1}
        # The loss is the mean since step 10: partly of before the checkpoint, which is of step 13.
        assert set(replayed) == {
            ("student/train_loss", 20),
            ("student/validation_accuracy", 26),
            ("student/validation_loss", 26),
        }
        assert all(len(set(seen)) == 1 for seen in replayed.values())

    def test_another_thread_count_keeps_the_checkpoints_own(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        expected = content_of(undisturbed("kd"))
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_in_training(folder)
        job = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps(job | {"threads": 2}))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]

    def test_a_resume_under_other_libraries_says_that_it_is_not_exact(
        self, tmp_path: Path, run_engine: Callable[[Path], Path]
    ) -> None:
        folder = make_run(tmp_path / "run", "kd", checkpoint_seconds=0.0)
        dies_in_training(folder)
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            state["environment"]["libraries"]["torch"] = "2.0.0"
            (checkpoint / "state.json").write_text(json.dumps(state))
        run_engine(folder)
        assert events_of(folder, "resumed")[-1]["exact_resume"] is False
        assert "libraries" in events_of(folder, "warning")[-1]["message"]

    def test_a_resume_where_sums_may_come_in_any_order_says_that_it_is_not_exact(
        self, run_engine: Callable[[Path], Path], make_killed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: on a GPU without training.deterministic, a student said to be the one that a single run makes."""

        def in_any_order(*arguments: Any) -> Compute:
            return replace(choose_compute(*arguments), is_deterministic=False)

        folder = make_killed("kd")
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 1, "after"))
        monkeypatch.setattr("worker.distill.loading.choose_compute", in_any_order)
        run_engine(folder)
        assert exactness_of_resumes(folder) == [False]

    def test_a_run_that_went_on_inexactly_once_says_so_at_every_resume(
        self, run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: killed twice, and the second resume says that the student is what an undisturbed run makes."""
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            state["environment"]["machine"] = "another one"
            (checkpoint / "state.json").write_text(json.dumps(state))
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        run_engine(folder)
        assert exactness_of_resumes(folder) == [False, False]
        assert "machine" in events_of(folder, "warning")[-1]["message"]

    def test_a_method_that_is_another_one_by_now_is_no_exact_resume(
        self, run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: half of a run by the rules of one release, half by those of the next, and said to be of one piece."""
        folder = make_killed("lelp", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            assert state["environment"].pop("methods") == {"lelp": 3}
            (checkpoint / "state.json").write_text(json.dumps(state))
        run_engine(folder)
        assert exactness_of_resumes(folder) == [False]
        assert "methods" in events_of(folder, "warning")[-1]["message"]

    def test_coordinates_come_from_the_checkpoint_not_from_a_second_fit(
        self, tmp_path: Path, undisturbed: Callable[..., Path]
    ) -> None:
        artifact = undisturbed("sage")
        folder = make_run(tmp_path / "killed", "sage", checkpoint_seconds=0.0)
        shutil.copytree(artifact.parent / "cache", folder / "cache")
        dies_in_training(folder)
        shutil.rmtree(folder / "cache")
        assert start_engine(folder).wait() == exit_codes.SUCCEEDED
        assert "projection" not in {event["phase"] for event in events_of(folder, "phase")}
        assert content_of(folder / "artifact") == content_of(artifact)
        assert exactness_of_resumes(folder) == [True]

    def test_a_map_that_came_meanwhile_from_another_machine_is_not_taken(
        self, tmp_path: Path, undisturbed: Callable[..., Path]
    ) -> None:
        """Harm: new rows made on another machine's map, and a student said to be the one of a single run."""
        artifact = undisturbed("sage")
        folder = make_run(tmp_path / "killed", "sage", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 2, "after"))
        begun = load_latest(folder / "checkpoints")
        assert begun is not None
        assert begun.coordinates is None
        shutil.copytree(artifact.parent / "cache/projections", folder / "cache/projections")
        for file in (folder / "cache/projections").glob("*/*"):
            save_file({"coordinates": load_file(file)["coordinates"][::-1].copy()}, file)
        engine = fork_engine(folder)
        engine.join()
        assert content_of(folder / "artifact") == content_of(artifact)
        # The student may be of a round before the map: what the others were like is in the record.
        records = [json.loads((made / "manifest.json").read_text())["arms"] for made in (artifact, folder / "artifact")]
        assert records[0] == records[1]
        assert exactness_of_resumes(folder) == [True]

    def test_a_tokenizer_that_makes_other_tokens_by_now_ends_the_run(
        self, run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: after an upgrade of the tokenizers library what one word has learnt goes to another, unseen; or the
        resume fails in the middle of the optimiser."""
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            state["environment"]["libraries"]["tokenizers"] = "0.1"
            (checkpoint / "state.json").write_text(json.dumps(state))
        write_tokenizer(folder / "teacher", VOCABULARY[::-1])
        message = r'other tokens of .* \(tokenizers 0\.1 there and .* here\).* with \{"from_start": true\}'
        with pytest.raises(InvalidJob, match=message):
            run_engine(folder)
        assert exactness_of_resumes(folder) == []

    def test_other_teacher_outputs_than_at_the_start_are_no_exact_resume(
        self, tmp_path: Path, run_engine: Callable[[Path], Path]
    ) -> None:
        folder = make_run(tmp_path / "run", "kd", checkpoint_seconds=0.0)
        dies_in_training(folder)
        shift_logits(folder)
        run_engine(folder)
        assert events_of(folder, "resumed")[-1]["exact_resume"] is False
        assert "teacher_outputs" in events_of(folder, "warning")[-1]["message"]


# Where in a run the kill falls.
INSTANTS = {
    "while UMAP fits": Instant("worker.distill.projection:ProjectionFit.result", 1, "before"),
    "between the teacher's outputs and their place in the cache": Instant(
        "worker.distill.run_cache:os.replace", 1, "before"
    ),
    "in the synthesis": Instant("worker.distill.synthesis:Synthesizer.draw_pairs", 1, "after"),
    "between synthesis and labelling": Instant("worker.distill.guidance:label_rows", 1, "before"),
    "between labelling and the choice of what is kept": Instant(
        "worker.distill.guidance:predict_synthetic", 1, "before"
    ),
    "in the write of a checkpoint": Instant("worker.distill.checkpoint:save_file", 5, "after"),
    "between a checkpoint's last byte and its name": Instant("worker.distill.checkpoint:os.rename", 2, "before"),
    "between a checkpoint's name and its announcement": Instant(
        "worker.distill.run_checkpoints:save_checkpoint", 2, "after"
    ),
    "in the export": Instant("worker.distill.export:sha256_of", 2, "after"),
    "in the packing": Instant("worker.distill.export:tarfile.TarFile.addfile", 2, "after"),
}


class TestInstants:
    @pytest.mark.parametrize("instant", INSTANTS)
    def test_a_kill_there_changes_nothing(
        self,
        instant: str,
        tmp_path: Path,
        undisturbed: Callable[..., Path],
        run_engine: Callable[[Path], Path],
        projections: Path,
    ) -> None:
        expected = content_of(undisturbed("sage"))
        folder = make_run(tmp_path / "killed", "sage")
        dies_at = INSTANTS[instant]
        if "projection" not in dies_at.function:  # only that one has to fit by itself
            shutil.copytree(projections, folder / "cache" / "projections")
        engine = fork_engine(folder, dies_at)
        engine.join()
        assert engine.exitcode == -signal.SIGKILL
        assert not events_of(folder, "succeeded")
        had_checkpoint = bool(list_checkpoints(folder / "checkpoints"))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True] * had_checkpoint


class TestStop:
    def test_sigterm_writes_a_checkpoint_and_says_stopped(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        expected = content_of(undisturbed("kd", **UNEVEN))
        folder = make_killed("kd", **UNEVEN)
        told = Instant("worker.distill.train:ArmTraining._log_window", 1, "before", signal.SIGTERM)
        engine = fork_engine(folder, told)
        engine.join()
        assert engine.exitcode == exit_codes.STOPPED
        (checkpoint,) = list_checkpoints(folder / "checkpoints")
        assert checkpoint.name == "00000010"
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]

    def test_sigterms_one_after_the_other_are_one(self, make_killed: Callable[..., Path]) -> None:
        """Harm: a signal that comes while another is handled waits for it, in the same thread, until the engine is
        killed for it and what it should have saved is lost."""
        folder = make_killed("kd", training__epochs=200.0)
        engine = fork_engine(folder)
        while not (folder / "events.jsonl").exists():
            assert engine.is_alive()
        assert engine.pid is not None
        with contextlib.suppress(ProcessLookupError):
            for _ in range(2_000):
                os.kill(engine.pid, signal.SIGTERM)
        engine.join(60)
        engine.kill()  # where it is stuck, it listens to nothing else
        assert engine.exitcode == exit_codes.STOPPED

    @pytest.mark.parametrize(
        ("kind", "changes", "validation"),
        [("kd", {}, 1), ("kd", {}, 3), ("sage", {}, 2), ("kd", {"tuned": True}, 1)],
    )
    def test_sigterm_in_a_validation_saves_the_round_that_it_is_of(
        self,
        kind: str,
        changes: dict[str, Any],
        validation: int,
        undisturbed: Callable[..., Path],
        run_engine: Callable[[Path], Path],
        make_killed: Callable[..., Path],
    ) -> None:
        """Harm: a long validation ends after the time that a worker has to stop: it is killed, and what was trained
        since the last checkpoint is lost."""
        expected = content_of(undisturbed(kind, **changes))
        folder = make_killed(kind, **changes)
        told = Instant("worker.distill.train:predict_logits", validation, "before", signal.SIGTERM)
        engine = fork_engine(folder, told)
        engine.join()
        assert engine.exitcode == exit_codes.STOPPED
        state = load_latest(folder / "checkpoints")
        assert state is not None
        assert state.arm_state is not None
        position = state.arm_state.position
        # Every batch of the round is done, and the round is not over.
        assert (position.round, position.step) == (validation - 1, 10 * validation)
        assert position.batch_in_round == 10
        assert state.arm_state.plan is not None
        assert len(position.rounds_done) == validation - 1
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]

    def test_a_validation_writes_no_second_checkpoint_of_the_same_step(
        self, tmp_path: Path, run_engine: Callable[[Path], Path]
    ) -> None:
        """Harm: a long validation after which a gigabyte was stored many times over, and each time counted as news."""
        counts = []
        for rows in (32, 200):
            folder = make_run(tmp_path / str(rows), "kd", validation_rows=rows, checkpoint_seconds=0.0)
            run_engine(folder)
            counts.append(sum(event["arm"] is not None for event in events_of(folder, "checkpoint")))
        assert counts[0] == counts[1] > 30


class TestTeacherPass:
    """It is in the checkpoints until it is over."""

    @pytest.mark.parametrize("kind", ["kd", "lelp"])
    def test_killed_after_each_of_its_batches_it_gets_over_and_changes_nothing(
        self,
        kind: str,
        undisturbed: Callable[..., Path],
        run_engine: Callable[[Path], Path],
        make_killed: Callable[..., Path],
    ) -> None:
        """Harm: a job of very many rows that never gets past it, where workers are taken away every half an hour."""
        artifact = undisturbed(kind)
        folder = make_killed(kind, checkpoint_seconds=0.0)
        # The training rows are in two batches, the others in one each; the last is over before it is saved.
        for answered in (
            {"train": 102},
            {"train": 150},
            {"train": 150, "validation": 60},
            {"train": 150, "validation": 60, "test": 60},
        ):
            dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 1, "after"))
            state = load_latest(folder / "checkpoints")
            assert state is not None
            assert state.teacher_pass is not None
            assert {split: len(said.logits) for split, said in state.teacher_pass.said.items()} == answered
        assert content_of(run_engine(folder)) == content_of(artifact)
        assert exactness_of_resumes(folder) == [True]
        assert file_of_outputs(folder).read_bytes() == file_of_outputs(artifact.parent).read_bytes()
        after = load_latest(folder / "checkpoints")
        assert after is not None
        assert after.teacher_pass is None

    def test_sigterm_saves_it(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        folder = make_killed("kd")
        told = Instant("worker.distill.teacher_outputs:predict", 2, "before", signal.SIGTERM)
        engine = fork_engine(folder, told)
        engine.join()
        assert engine.exitcode == exit_codes.STOPPED
        state = load_latest(folder / "checkpoints")
        assert state is not None
        assert state.teacher_pass is not None
        assert list(state.teacher_pass.said) == ["train", "validation"]
        assert content_of(run_engine(folder)) == content_of(undisturbed("kd"))

    def test_begun_it_ends_whatever_another_job_has_left_meanwhile(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: a student of what the teacher said on another machine, which is said to be the one of a single run."""
        artifact = undisturbed("kd")
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 1, "after"))
        shutil.copytree(artifact.parent / "cache/teacher_outputs", folder / "cache/teacher_outputs")
        shift_logits(folder)
        assert content_of(run_engine(folder)) == content_of(artifact)

    def test_of_another_precision_it_is_made_anew(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: half of the rows in the numbers of a machine that has bf16, the other half in those of one without."""
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 1, "after"))
        (checkpoint,) = list_checkpoints(folder / "checkpoints")
        state = json.loads((checkpoint / "state.json").read_text())
        state["teacher_pass"]["files"] = ["logits-bf16" + state["teacher_pass"]["files"][0].removeprefix("logits-fp32")]
        (checkpoint / "state.json").write_text(json.dumps(state))
        said = load_file(checkpoint / "teacher_pass.safetensors")
        save_file({name: logits + 1 for name, logits in said.items()}, checkpoint / "teacher_pass.safetensors")
        assert content_of(run_engine(folder)) == content_of(undisturbed("kd"))


class TestTunedAgain:
    """The teacher is, where the cache has lost it when a student that learns from it goes on."""

    def test_to_the_same_bits_it_costs_the_student_nothing(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: the tuning's checkpoints take the place of the student's, which begins anew."""
        whole = {"tuned": True, "checkpoint_seconds": 0.0}
        expected = content_of(undisturbed("kd", **whole))
        folder = make_killed("kd", **whole)
        die_without_the_tuned_teacher(folder)
        begun = load_latest(folder / "checkpoints")
        assert begun is not None
        assert begun.arm == "student"
        # Two checkpoints are kept: by the third the student's own have gone.
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        waits = load_latest(folder / "checkpoints")
        assert waits is not None
        assert waits.arm == "teacher_tuning"
        assert waits.waiting["student"].position == begun.begun()["student"].position
        before = len(events_of(folder))
        assert content_of(run_engine(folder)) == expected
        fresh = events_of(folder)[before:]
        steps = [event["step"] for event in fresh if event.get("series") == "student/train_loss"]
        assert steps == [20, 30]
        assert [event["exact_resume"] for event in fresh if event["type"] == "resumed"] == [True]
        kept = load_latest(folder / "checkpoints")
        assert kept is not None
        assert not kept.begun()

    def test_to_other_bits_it_is_no_exact_resume(
        self, run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: a student that learnt from two teachers, and is said to be the one that a single run makes."""
        folder = make_killed("kd", tuned=True, checkpoint_seconds=0.0)
        die_without_the_tuned_teacher(folder)
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            state["inputs"]["tuned_teacher"] = "tuned on another machine"
            state["environment"]["machine"] = "that one"
            (checkpoint / "state.json").write_text(json.dumps(state))
        # Nor is it forgotten by one that dies before it has a teacher to compare.
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        assert not events_of(folder, "resumed")
        run_engine(folder)
        assert exactness_of_resumes(folder) == [False]
        (warning,) = events_of(folder, "warning")
        assert "where machine, tuned_teacher differ" in warning["message"]

    def test_found_in_the_cache_after_all_it_ends_the_tuning(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: a tuning that nobody goes on with lies in every checkpoint from there on."""
        whole = {"tuned": True, "checkpoint_seconds": 0.0}
        artifact = undisturbed("kd", **whole)
        folder = make_killed("kd", **whole)
        die_without_the_tuned_teacher(folder)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        shutil.copytree(artifact.parent / "cache/tuned_teachers", folder / "cache/tuned_teachers")
        assert content_of(run_engine(folder)) == content_of(artifact)
        assert exactness_of_resumes(folder) == [True]
        kept = load_latest(folder / "checkpoints")
        assert kept is not None
        assert not kept.begun()

    def test_a_tuning_that_has_begun_ends_whatever_another_job_has_left_meanwhile(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: a student of another machine's teacher, which is said to be the one of a single run."""
        whole = {"tuned": True, "checkpoint_seconds": 0.0}
        artifact = undisturbed("kd", **whole)
        folder = make_killed("kd", **whole)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        shutil.copytree(artifact.parent / "cache/tuned_teachers", folder / "cache/tuned_teachers")
        shift_weights(folder)
        assert content_of(run_engine(folder)) == content_of(artifact)
        assert exactness_of_resumes(folder) == [True]

    def test_what_it_says_is_not_taken_from_one_that_was_tuned_elsewhere(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: two workers tune at once, one's weights are kept, and what the other's said: for good."""
        whole = {"tuned": True, "checkpoint_seconds": 0.0}
        artifact = undisturbed("kd", **whole)
        folder = make_killed("kd", **whole)
        shutil.copytree(artifact.parent / "cache", folder / "cache", dirs_exist_ok=True)
        shift_weights(folder)
        run_engine(folder)
        assert len(list((folder / "cache/teacher_outputs").glob("*/logits-*"))) == 2


def dies_at(folder: Path, instant: Instant) -> None:
    engine = fork_engine(folder, instant)
    engine.join()
    assert engine.exitcode == -signal.SIGKILL


def dies_in_training(folder: Path) -> None:
    """Where the second round ends, with a checkpoint of the step before."""
    dies_at(folder, Instant("worker.distill.train:ArmTraining._log_window", 2, "before"))


def file_of_outputs(folder: Path) -> Path:
    (file,) = (folder / "cache/teacher_outputs").glob("*/*")
    return file


def shift_logits(folder: Path) -> None:
    """The teacher's outputs that the run's cache has become others."""
    logits = load_file(file_of_outputs(folder))
    logits["train"] += 1e-3
    save_file(logits, file_of_outputs(folder))


def shift_weights(folder: Path) -> None:
    """The tuned teacher that the run's cache has becomes another one."""
    (file,) = (folder / "cache/tuned_teachers").glob("*/*")
    save_file({name: value * 1.01 if value.ndim > 1 else value for name, value in load_file(file).items()}, file)


def die_without_the_tuned_teacher(folder: Path) -> None:
    """In the student's second round: nothing is in the cache any more when it goes on."""
    # The tuning has logged two losses by then, the first round one.
    dies_at(folder, Instant("worker.distill.train:ArmTraining._log_window", 4, "before"))
    shutil.rmtree(folder / "cache")


def kill_in_phase(folder: Path, phase: str) -> None:
    """SIGKILL once a checkpoint was written in `phase` by this process."""
    seen = len(events_of(folder))
    engine = fork_engine(folder)
    try:
        while True:
            fresh = events_of(folder)[seen:]
            entered = [i for i, event in enumerate(fresh) if event["type"] == "phase" and event["phase"] == phase]
            if entered and any(event["type"] == "checkpoint" for event in fresh[entered[0] :]):
                break
            assert engine.is_alive(), f"the engine ended before it could be killed in {phase}"
            time.sleep(0.002)
    finally:
        engine.kill()
        engine.join()


class TestOlderCheckpoint:
    def test_of_a_release_whose_objectives_had_no_state_goes_on_exactly(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: an upgrade that takes away what a paused job had done."""
        expected = content_of(undisturbed("kd"))
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_in_training(folder)
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            del state["arm_position"]["objective"]
            (checkpoint / "state.json").write_text(json.dumps(state | {"format_version": 3}))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]

    def test_of_a_release_that_recorded_less_is_taken_as_it_is(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: an upgrade after which every job under way is told to be inexact, or begins anew."""
        expected = content_of(undisturbed("kd"))
        folder = make_killed("kd", checkpoint_seconds=0.0)
        dies_at(folder, Instant("worker.distill.run_checkpoints:save_checkpoint", 3, "after"))
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            assert state["inputs"].pop("tokens")
            for library in ("tokenizers", "scipy", "umap-learn", "numba"):
                assert state["environment"]["libraries"].pop(library)
            (checkpoint / "state.json").write_text(json.dumps(state))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]

    def test_of_a_release_that_spliced_nothing_goes_on_exactly(
        self, undisturbed: Callable[..., Path], run_engine: Callable[[Path], Path], make_killed: Callable[..., Path]
    ) -> None:
        """Harm: rows that were shifted when the round began are something else after the upgrade."""
        expected = content_of(undisturbed("random_anchors"))
        folder = make_killed("random_anchors", checkpoint_seconds=0.0)
        dies_in_training(folder)
        plan = list_checkpoints(folder / "checkpoints")[-1] / "round.safetensors"
        assert {"anchors", "sources", "weights"} <= set(load_file(plan))
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            state = json.loads((checkpoint / "state.json").read_text())
            (checkpoint / "state.json").write_text(json.dumps(state | {"format_version": 4}))
        assert content_of(run_engine(folder)) == expected
        assert exactness_of_resumes(folder) == [True]
