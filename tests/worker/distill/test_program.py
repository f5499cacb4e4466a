"""The engine as its parent sees it: exit codes, the last event, and how it ends when nobody is left."""

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker.distill.forked_engine import fork_engine
from tests.worker.distill.tiny_runs import events_of, make_run, start_engine
from worker.distill import exit_codes
from worker.distill.checkpoint import list_checkpoints
from worker.distill.events import EventLog

# With test_resume: the process that engines are forked from is started once.
pytestmark = pytest.mark.xdist_group("engine_runs")


def wait_for(folder: Path, event: str, engine: "subprocess.Popen[bytes]") -> None:
    while not events_of(folder, event):
        assert engine.poll() is None, f"the engine ended before its first {event}"
        time.sleep(0.01)


def exit_code_of_fork(folder: Path) -> int | None:
    """Where the seconds in which a program starts are not the subject."""
    engine = fork_engine(folder)
    engine.join()
    return engine.exitcode


class TestExit:
    def test_success_is_zero_and_the_last_event_carries_the_result(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "kd")
        assert start_engine(folder).wait() == exit_codes.SUCCEEDED
        last = events_of(folder)[-1]
        assert last["type"] == "succeeded"
        assert set(last["result"]) >= {"teacher", "student", "baselines", "content_sha256", "seconds", "hardware"}

    def test_a_failure_has_its_code_and_a_sentence(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "kd", student__layers=9)
        assert exit_code_of_fork(folder) == exit_codes.FAILED
        last = events_of(folder)[-1]
        assert (last["type"], last["code"]) == ("failed", "invalid_job")
        assert "choose 1 to 4" in last["message"]

    @pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
    def test_a_full_disk_has_its_own_code(self, tmp_path: Path) -> None:
        """A limit on file size makes the same system call fail as a full disk does."""
        folder = make_run(tmp_path / "run", "kd")
        engine = fork_engine(folder)
        assert engine.pid is not None
        resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (40_000, 40_000))
        engine.join()
        assert engine.exitcode == exit_codes.DISK_FULL
        last = events_of(folder)[-1]
        assert (last["type"], last["code"]) == ("failed", "disk_full")
        assert "then retry the job" in last["message"]

    @pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is part of util-linux")
    def test_a_full_disk_keeps_its_code_when_the_log_lies_on_it_too(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "kd")
        with open("/dev/full", "wb") as log:
            assert start_engine(folder, "prlimit", "--fsize=40000", stderr=log).wait() == exit_codes.DISK_FULL

    def test_a_gpu_that_is_wanted_and_not_there_has_its_own_code(self, tmp_path: Path) -> None:
        """Harm: a machine whose GPU is lost trains on its processor, many times as long, and nobody hears of it."""
        folder = make_run(tmp_path / "run", "kd")
        environment = os.environ | {"STILLHOUSE_ENGINE_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}
        engine = start_engine(folder, stderr=subprocess.PIPE, env=environment)
        _, errors = engine.communicate()
        assert engine.returncode == exit_codes.NO_DEVICE
        last = events_of(folder)[-1]
        assert (last["type"], last["code"]) == ("failed", "device_lost")
        for said in (last["message"], errors.decode()):
            assert "STILLHOUSE_ENGINE_DEVICE is cuda" in said
            assert "started anew" in said

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        engine = start_engine(tmp_path / "nowhere", stderr=subprocess.PIPE)
        _, errors = engine.communicate()
        assert engine.returncode == exit_codes.FAILED
        assert b"nowhere is not a folder" in errors


class TestExplain:
    def test_an_allocation_that_fails_is_out_of_memory(self) -> None:
        import torch

        from worker.distill.__main__ import _explain

        with pytest.raises(RuntimeError) as caught:
            torch.empty(10**15)
        explained = _explain(caught.value)
        assert explained.code == "out_of_memory"
        assert "training.batch_size" in str(explained)

    @pytest.mark.parametrize(
        "said",
        [
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ],
    )
    def test_so_is_a_device_that_others_have_filled(self, said: str) -> None:
        from worker.distill.__main__ import _explain

        assert _explain(RuntimeError(said)).code == "out_of_memory"

    @pytest.mark.parametrize(
        ("said", "code", "status"),
        [
            ("unspecified launch failure", "device_lost", exit_codes.DEVICE_LOST),
            ("uncorrectable ECC error encountered", "device_lost", exit_codes.DEVICE_LOST),
            ("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm()`", "device_lost", exit_codes.DEVICE_LOST),
            ("device-side assert triggered", "internal_error", exit_codes.FAILED),
        ],
    )
    def test_a_gpu_that_fails_is_lost_unless_its_numbers_were_wrong(
        self, said: str, code: str, status: int, tmp_path: Path
    ) -> None:
        """Harm: a GPU that breaks costs the job it had; or an index out of range is tried on one GPU after another."""
        import torch

        from worker.distill.__main__ import _fail

        events = EventLog(tmp_path / "events.jsonl")
        error = torch.AcceleratorError(f"CUDA error: {said}\nCUDA kernel errors might be asynchronously reported")
        assert _fail(error, events) == status
        (event,) = events_of(tmp_path)
        assert event["code"] == code
        assert f"CUDA error: {said}" in event["message"]

    @pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="/dev/full is Linux's")
    def test_no_space_left_is_disk_full(self) -> None:
        from worker.distill.__main__ import _explain

        with pytest.raises(OSError, match="No space") as caught, open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        assert _explain(caught.value).code == "disk_full"


class TestParent:
    def test_the_engine_dies_when_the_pipe_from_its_parent_closes(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "kd", training__epochs=500.0)
        environment = os.environ | {"STILLHOUSE_ENGINE_PARENT_PIPE": "1"}
        engine = start_engine(folder, stdin=subprocess.PIPE, env=environment)
        try:
            wait_for(folder, "metric", engine)
            assert engine.stdin is not None
            engine.stdin.close()
            assert engine.wait(timeout=30) != exit_codes.SUCCEEDED
        finally:
            engine.kill()
            engine.wait()

    def test_the_projection_dies_with_its_engine(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "sage", training__epochs=500.0)
        engine = fork_engine(folder)
        try:
            while not (found := _processes_with(str(folder / "projection-"))):
                assert engine.is_alive()
                time.sleep(0.01)
        finally:
            engine.kill()  # the engine alone, not its group
        engine.join()
        deadline = time.monotonic() + 60
        while _processes_with(str(folder / "projection-")):
            assert time.monotonic() < deadline, f"{found} outlived the engine"
            time.sleep(0.05)


class TestCheckpointFolder:
    def test_only_the_last_two_are_kept(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "kd", checkpoint_seconds=0.0)
        assert exit_code_of_fork(folder) == exit_codes.SUCCEEDED
        assert len(events_of(folder, "checkpoint")) > 5
        assert len(list_checkpoints(folder / "checkpoints")) == 2

    def test_numbers_rise_across_stages_so_the_newest_is_the_last(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", "kd", tuned=True, checkpoint_seconds=0.0)
        assert exit_code_of_fork(folder) == exit_codes.SUCCEEDED
        numbers = [event["step"] for event in events_of(folder, "checkpoint")]
        assert len(numbers) > 5
        assert numbers == sorted(set(numbers))

    def test_a_half_written_one_is_not_seen(self, tmp_path: Path) -> None:
        (tmp_path / ".00000007.partial").mkdir()
        (tmp_path / ".00000007.partial" / "state.json").write_text("{}")
        (tmp_path / "00000003").mkdir()
        assert list_checkpoints(tmp_path) == []


class TestEventLog:
    def test_a_torn_last_line_is_closed_before_the_next_event(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        path.write_text('{"type": "phase"}\n{"type": "met')
        log = EventLog(path)
        log.emit("progress", loss=float("nan"))
        log.close()
        lines = path.read_text().splitlines()
        assert lines[1] == '{"type": "met'
        assert '"loss": null' in lines[2]

    def test_is_readable_without_torch(self) -> None:
        program = "import sys, worker.distill.events, worker.distill.cache_keys, worker.distill.exit_codes; "
        program += "sys.exit('torch' in sys.modules or 'umap' in sys.modules or 'numpy' in sys.modules)"
        subprocess.run([sys.executable, "-c", program], check=True)


def _processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found
