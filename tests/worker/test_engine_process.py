"""The engine's process as the worker sees it: real child programs that behave well, badly, and not at all."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from worker.distill import exit_codes
from worker.distill.run_folder import DEVICE, PARENT_PIPE
from worker.engine_outcome import EngineEnd
from worker.engine_process import EngineProcess

ROOM = 2 * 1024**3
MEBIBYTE = 1024**2
SECRETS = (
    "STILLHOUSE_DATABASE_URL",
    "AWS_SECRET_ACCESS_KEY",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "PGPASSWORD",
)

Start = Callable[..., EngineProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Python text as the engine; whatever still runs at the end is killed."""
    started: list[EngineProcess] = []

    def run(script: str, *, memory_limit_bytes: int = ROOM, threads: int = 1, device: str = "auto") -> EngineProcess:
        program = (sys.executable, "-c", textwrap.dedent(script))
        process = EngineProcess.start(
            tmp_path, threads=threads, memory_limit_bytes=memory_limit_bytes, device=device, program=program
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        assert process.wait(30)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_pid(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text().strip().isdigit())
    return int(path.read_text())


class TestOutcome:
    def test_success_carries_the_result(self, start: Start) -> None:
        outcome = start("pass").outcome({"type": "succeeded", "result": {"student": {"parameters": 7}}})
        assert outcome.end is EngineEnd.SUCCEEDED
        assert outcome.result == {"student": {"parameters": 7}}

    def test_failure_is_told_in_the_engines_own_words(self, start: Start) -> None:
        event = {"type": "failed", "code": "nan_loss", "message": "The loss became NaN; lower the rate."}
        outcome = start("raise SystemExit(70)").outcome(event)
        assert (outcome.end, outcome.code, outcome.message) == (EngineEnd.FAILED, "nan_loss", event["message"])

    def test_exit_without_an_explanation_quotes_the_log(self, start: Start) -> None:
        outcome = start("print('loading'); raise RuntimeError('no such layer')").outcome(None)
        assert outcome.code == "engine_died"
        assert "exit code 1" in outcome.message
        assert outcome.message.endswith("RuntimeError: no such layer")

    def test_success_without_a_result_is_none(self, start: Start) -> None:
        outcome = start("pass").outcome(None)
        assert outcome.code == "engine_died"
        assert "without a result" in outcome.message

    def test_crash_names_its_signal(self, start: Start) -> None:
        outcome = start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").outcome(None)
        assert outcome.code == "engine_died"
        assert "SIGSEGV" in outcome.message

    def test_kill_from_outside_says_that_memory_is_the_usual_reason(self, start: Start) -> None:
        outcome = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").outcome(None)
        assert outcome.code == "engine_died"
        assert "out of memory" in outcome.message

    @pytest.mark.parametrize(
        ("status", "end"),
        [(exit_codes.NO_DEVICE, EngineEnd.NO_DEVICE), (exit_codes.DEVICE_LOST, EngineEnd.KILLED)],
    )
    def test_a_lost_gpu_is_not_the_jobs_failure(self, start: Start, status: int, end: EngineEnd) -> None:
        event = {"type": "failed", "code": "device_lost", "message": "The GPU is gone; start the worker anew."}
        outcome = start(f"raise SystemExit({status})").outcome(event)
        assert (outcome.end, outcome.code, outcome.message) == (end, "device_lost", event["message"])

    def test_nor_where_a_full_disk_has_kept_the_engine_from_saying_so(self, start: Start) -> None:
        script = f"import sys; print('device_lost: no GPU', file=sys.stderr); sys.exit({exit_codes.NO_DEVICE})"
        outcome = start(script).outcome(None)
        assert (outcome.end, outcome.code) == (EngineEnd.NO_DEVICE, "device_lost")
        assert "device_lost: no GPU" in outcome.message

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ("raise OSError(28, 'No space left on device')", "disk_full"),
            ("raise SystemExit(74)", "disk_full"),
            ("raise MemoryError", "out_of_memory"),
        ],
    )
    def test_known_last_words_have_their_code(self, start: Start, script: str, code: str) -> None:
        assert start(script).outcome(None).code == code


class TestMemoryLimit:
    def test_engine_over_its_limit_is_stopped_and_says_what_to_change(self, start: Start) -> None:
        process = start("import time; held = b'x' * (400 * 1024**2); time.sleep(60)", memory_limit_bytes=200 * MEBIBYTE)
        assert process.wait(30)
        outcome = process.outcome(None)
        assert outcome.code == "out_of_memory"
        assert "limit of 0.21 GB" in outcome.message
        assert "training.batch_size" in outcome.message

    def test_memory_of_its_children_counts(self, start: Start) -> None:
        process = start(
            """
            import subprocess, sys
            hold = "import time; held = b'x' * (150 * 1024**2); time.sleep(60)"
            children = [subprocess.Popen([sys.executable, "-c", hold]) for _ in range(2)]
            children[0].wait()
            """,
            memory_limit_bytes=250 * MEBIBYTE,
        )
        assert process.wait(30)
        assert process.outcome(None).code == "out_of_memory"

    def test_shared_memory_counts(self, start: Start) -> None:
        process = start(
            """
            import mmap, time
            held = mmap.mmap(-1, 400 * 1024**2)
            for page in range(0, len(held), 4096):
                held[page] = 1
            time.sleep(60)
            """,
            memory_limit_bytes=200 * MEBIBYTE,
        )
        assert process.wait(30)
        assert process.outcome(None).code == "out_of_memory"

    def test_pages_of_a_mapped_file_do_not_count(self, start: Start, tmp_path: Path) -> None:
        """Harm: a job on vectors larger than the memory fails, though the kernel takes such pages back when it wants
        them for something else."""
        if "tmpfs" in subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True):
            pytest.skip("the pages of a file that lies in memory are memory")
        with (tmp_path / "vectors").open("wb") as file:
            file.truncate(400 * MEBIBYTE)
        process = start(
            """
            import mmap, time
            with open("vectors", "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            sum(mapped[page] for page in range(0, len(mapped), 4096))
            time.sleep(0.7)
            """,
            memory_limit_bytes=200 * MEBIBYTE,
        )
        assert process.wait(30)
        assert process.outcome({"type": "succeeded"}).end is EngineEnd.SUCCEEDED

    def test_engine_below_its_limit_is_left_alone(self, start: Start) -> None:
        process = start("import time; held = b'x' * (50 * 1024**2); time.sleep(0.7)", memory_limit_bytes=200 * MEBIBYTE)
        assert process.wait(30)
        assert process.outcome({"type": "succeeded"}).end is EngineEnd.SUCCEEDED


class TestStop:
    def test_engine_gets_its_time_to_write_a_checkpoint(self, start: Start, tmp_path: Path) -> None:
        process = start(
            """
            import signal, sys, time, pathlib
            def stop(*_):
                time.sleep(0.3)
                pathlib.Path("checkpoint").touch()
                sys.exit(75)
            signal.signal(signal.SIGTERM, stop)
            pathlib.Path("ready").touch()
            while True:  # a signal that comes just before a sleep begins is handled when it is over
                time.sleep(0.05)
            """
        )
        wait_for((tmp_path / "ready").exists)
        process.stop(grace_seconds=30)
        assert process.wait(30)
        assert (tmp_path / "checkpoint").exists()
        assert process.outcome(None).end is EngineEnd.STOPPED

    def test_engine_is_told_once_and_may_be_given_less_time(self, start: Start, tmp_path: Path) -> None:
        """Harm: the second signal interrupts what the engine does about the first."""
        process = start(
            """
            import signal, time, pathlib
            signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
            pathlib.Path("ready").touch()
            while True:
                time.sleep(0.05)
            """
        )
        log = tmp_path / "engine.log"
        wait_for((tmp_path / "ready").exists)
        process.stop(grace_seconds=60)
        wait_for(lambda: "told" in log.read_text())
        process.stop(grace_seconds=0.5)
        assert process.wait(30)
        assert log.read_text().split() == ["told"]
        assert process.outcome(None).end is EngineEnd.KILLED

    def test_engine_that_does_not_listen_is_killed_after_the_grace(self, start: Start, tmp_path: Path) -> None:
        process = start(
            """
            import signal, time, pathlib
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pathlib.Path("ready").touch()
            time.sleep(60)
            """
        )
        wait_for((tmp_path / "ready").exists)
        process.stop(grace_seconds=0.3)
        assert process.wait(30)
        assert process.outcome(None).end is EngineEnd.KILLED


class TestKill:
    FAMILY = """
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path("child.aside").write_text(str(child.pid))
        pathlib.Path("child.aside").rename("child")
        {then}
    """

    def test_takes_the_engines_children_along(self, start: Start, tmp_path: Path) -> None:
        process = start(self.FAMILY.format(then="time.sleep(60)"))
        child = read_pid(tmp_path / "child")
        process.kill()
        assert process.wait(30)
        wait_for(lambda: is_gone(child))

    def test_children_that_outlive_the_engine_go_too(self, start: Start, tmp_path: Path) -> None:
        process = start(self.FAMILY.format(then=""))
        assert process.wait(30)
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: is_gone(child))

    def test_after_the_end_it_does_nothing(self, start: Start) -> None:
        process = start("pass")
        assert process.wait(30)
        process.kill()
        process.stop(1)

    def test_nor_while_its_end_is_being_told(self, start: Start, tmp_path: Path) -> None:
        """Harm: a pause that comes just as the engine has ended fails a finished job, or a kill hits a stranger who
        was given its number."""
        process = start(
            """
            import pathlib, time
            while not pathlib.Path("go").exists():
                time.sleep(0.01)
            """
        )
        seen = []

        def interfere(logger: object, method: str, event: dict[str, object]) -> dict[str, object]:  # noqa: ARG001
            if event["event"] == "engine_ended":
                seen.append(process.is_running)
                process.stop(1)
                process.kill()
                seen.append("no harm")
            return event

        with capture_logs(processors=[interfere]):
            (tmp_path / "go").touch()
            assert process.wait(30)
        assert seen == [True, "no harm"]


class TestSurroundings:
    def test_engine_sees_threads_and_device_and_no_secrets(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in SECRETS:
            monkeypatch.setenv(name, "hunter2")
        process = start(
            "import json, os, pathlib; pathlib.Path('seen').write_text(json.dumps(dict(os.environ)))",
            threads=3,
            device="cuda",
        )
        assert process.wait(30)
        seen = json.loads((tmp_path / "seen").read_text())
        assert (seen["OMP_NUM_THREADS"], seen[PARENT_PIPE], seen[DEVICE]) == ("3", "1", "cuda")
        assert [name for name, value in seen.items() if "hunter2" in value] == []

    def test_engine_dies_with_a_worker_that_is_killed(self, tmp_path: Path) -> None:
        """The pipe on its standard input has no other holder than the worker."""
        worker = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(
                    """
                    import pathlib, sys, time
                    from worker.engine_process import EngineProcess
                    engine = '''
                    import os, pathlib, sys
                    pathlib.Path("engine.aside").write_text(str(os.getpid()))
                    pathlib.Path("engine.aside").rename("engine")
                    sys.stdin.read()
                    '''
                    folder = pathlib.Path(sys.argv[1])
                    import textwrap
                    EngineProcess.start(folder, threads=1, memory_limit_bytes=2**32,
                                        program=(sys.executable, "-c", textwrap.dedent(engine)))
                    time.sleep(60)
                    """
                ),
                str(tmp_path),
            ]
        )
        engine = read_pid(tmp_path / "engine")
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        wait_for(lambda: is_gone(engine))
