"""Processes and what they leave are found for real: in /proc, in folders."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import MARK, Program, Seen, marked_processes, send

# Leaves its parent's session and parent, as a daemon does, and writes down its number.
RUNAWAY = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1] + ".part", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + ".part", sys.argv[1])
        time.sleep(600)
    os._exit(0)
os.wait()
"""


@pytest.fixture
def mark() -> Iterator[str]:
    mark = secrets.token_hex(8)
    yield mark
    for seen in marked_processes(mark):
        send(seen.pid, signal.SIGKILL)


def wait_for_file(path: Path) -> str:
    deadline = time.monotonic() + 60.0
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)
    return path.read_text()


class TestMarkedProcesses:
    def test_finds_a_process_that_left_its_session_and_its_parent(self, mark: str, tmp_path: Path) -> None:
        environment = {**os.environ, MARK: mark}
        subprocess.run([sys.executable, "-c", RUNAWAY, str(tmp_path / "pid")], env=environment, check=True)
        pid = int(wait_for_file(tmp_path / "pid"))
        assert [seen.pid for seen in marked_processes(mark)] == [pid]

    def test_leaves_out_what_belongs_to_another_run(self, mark: str) -> None:
        other = {**os.environ, MARK: secrets.token_hex(8)}
        with subprocess.Popen([sys.executable, "-c", "input()"], env=other, stdin=subprocess.PIPE):
            assert marked_processes(mark) == []


class TestSeen:
    def test_knows_the_job_of_an_engine(self) -> None:
        engine = Seen(7, 1, ("python", "-m", "worker.distill", "/x/work/job_1/token"))
        assert engine.engine_job == "job_1"

    def test_takes_nothing_else_for_an_engine(self) -> None:
        fit = Seen(7, 1, ("python", "-m", "worker.distill.projection", "/x/work/job_1/token/projection-1"))
        assert fit.engine_job is None


@pytest.fixture
def sleeper(mark: str, tmp_path: Path) -> Iterator[Program]:
    program = Program("sleeper", ["sleep", "600"], {**os.environ, MARK: mark}, tmp_path / "log")
    program.start()
    yield program
    program.kill()


def wait_until_gone(program: Program) -> None:
    assert program.process is not None
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)


class TestProgram:
    def test_is_started_again_after_a_kill_that_was_meant(self, sleeper: Program) -> None:
        first = sleeper.pid
        sleeper.stop(signal.SIGKILL, pause_seconds=0.0)
        wait_until_gone(sleeper)
        sleeper.look_after()
        assert sleeper.is_up
        assert sleeper.pid != first
        assert sleeper.accidents == []

    def test_tells_of_a_death_that_nobody_meant(self, sleeper: Program) -> None:
        send(sleeper.pid, signal.SIGKILL)
        wait_until_gone(sleeper)
        sleeper.look_after()
        assert sleeper.accidents == ["sleeper ended by itself with -9; see log"]

    def test_says_when_it_had_to_be_killed_at_the_end(self, mark: str, tmp_path: Path) -> None:
        deaf = "import signal, pathlib, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        deaf += "pathlib.Path(sys.argv[1]).touch(); signal.pause()"
        command = [sys.executable, "-c", deaf, str(tmp_path / "ready")]
        program = Program("deaf", command, {**os.environ, MARK: mark}, tmp_path / "log")
        program.start()
        wait_for_file(tmp_path / "ready")
        assert program.end(seconds=0.2) is None
        assert marked_processes(mark) == []
