"""The engine as a child process: started, watched, stopped, and its end put into words.

It runs in a process group of its own with its standard input on a pipe that only this process holds, so
it dies with us however we die. Its words go to a log file and from there into our log; their tail explains an
unexplained death.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import structlog

from app.prometheus import ENGINE_EXITS, ENGINE_MEMORY_BYTES, ENGINE_MEMORY_LIMIT_BYTES
from worker.distill.run_folder import DEVICE, LOG_CONTEXT, PARENT_PIPE
from worker.engine_outcome import Ending, EngineOutcome, describe_exit, explain
from worker.engine_output import EngineOutput
from worker.machine import GroupMemory, count_oom_kills
from worker.own_programs import own_environment
from worker.threads import logged_thread

ENGINE = (sys.executable, "-m", "worker.distill")
# An allocation as large as what worker/machine.py spares takes about as long as this to be touched.
MEMORY_LOOK_SECONDS = 0.2
# Higher than ours: where the kernel kills one process, it kills the engine and we can say why. In a pod on cgroup v2
# it kills the whole container, us too, unless the kubelet has singleProcessOOMKill (1.32 or newer): there only the look
# at its memory can tell of a job that needs too much.
_OOM_SCORE_ADJUSTMENT = 500
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

log = structlog.get_logger(__name__)


class EngineProcess:
    """One run of the engine on a run folder."""

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path, memory_limit_bytes: int) -> None:
        self._process = process
        self._output = EngineOutput(log_path)
        self._memory_limit_bytes = memory_limit_bytes
        self._oom_kills_before = count_oom_kills()
        self._memory = GroupMemory(process.pid)
        self._memory_used_bytes = 0
        self._is_over_memory = False
        # Why we killed it; empty where somebody else did, or nobody.
        self._kill_reason = ""
        self._kill_at = float("inf")
        self._is_told = False  # to stop
        self._lock = threading.Lock()
        # From then on its number may be another's.
        self._is_reaped = False
        self._ended = threading.Event()
        self._watch = logged_thread(self._watch_over, name="engine-watch")
        self._watch.start()

    @classmethod
    def start(
        cls,
        run_dir: Path,
        *,
        threads: int,
        memory_limit_bytes: int,
        device: str = "auto",
        program: Sequence[str] = ENGINE,
    ) -> Self:
        """Start `program RUN_DIR`; the environment fixes the threads that job.json names, and names the device."""
        path = run_dir / "engine.log"
        with path.open("ab") as output:
            process = subprocess.Popen(
                [*program, str(run_dir)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=run_dir,
                env=_environment(os.environ, threads, device, structlog.contextvars.get_contextvars()),
                start_new_session=True,
            )
        _offer_to_oom_killer(process.pid)
        log.info("engine_started", pid=process.pid, run_dir=str(run_dir), threads=threads)
        return cls(process, path, memory_limit_bytes)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end; True when it has ended."""
        return self._ended.wait(seconds)

    def stop(self, grace_seconds: float) -> None:
        """Ask it to write a checkpoint and exit; its group is killed when the grace is over. Asked again, it can only
        have less time. Returns at once."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace_seconds)
        with self._lock:
            if not self._is_reaped and not self._is_told:
                self._is_told = True
                # The engine alone: it needs its helpers until its checkpoint is written.
                os.kill(self.pid, signal.SIGTERM)

    def kill(self, reason: str = "told_to") -> None:
        """End it and all that it started, now. Callable from any thread, more than once: the first `reason` counts."""
        with self._lock:
            if not self._is_reaped:
                self._kill_reason = self._kill_reason or reason
                _kill_group(self.pid)

    def outcome(self, last_event: Mapping[str, Any] | None) -> EngineOutcome:
        """How it ended; `last_event` is its last `succeeded` or `failed` event, if it wrote one."""
        self._ended.wait()
        return explain(
            Ending(
                exit_code=self._process.returncode,
                log_tail=self._output.tail(),
                is_over_memory=self._is_over_memory,
                memory_used_bytes=self._memory_used_bytes,
                memory_limit_bytes=self._memory_limit_bytes,
                was_oom_killed=count_oom_kills() > self._oom_kills_before,
            ),
            last_event,
        )

    def _watch_over(self) -> None:
        """Until it exits: look at its memory, and keep the promise of `stop`."""
        ENGINE_MEMORY_LIMIT_BYTES.set(self._memory_limit_bytes)
        try:
            while not self._has_exited(MEMORY_LOOK_SECONDS):
                self._output.relay()
                if self._exceeds_memory():
                    log.warning("engine_over_its_memory_limit", used_bytes=self._memory_used_bytes)
                    self._is_over_memory = True
                    self.kill("over_memory")
                elif time.monotonic() >= self._kill_at:
                    log.warning("engine_stop_timed_out", pid=self.pid)
                    self.kill("stop_timed_out")
        finally:
            with self._lock:
                # Children that outlived the leader go with it. It is not reaped yet, so its number cannot
                # belong to anybody else.
                _kill_group(self.pid)
                self._process.wait()
                self._is_reaped = True
            try:
                self._tell_end()
            finally:
                self._ended.set()

    def _tell_end(self) -> None:
        """Before anybody who waits for the end goes on: its last words, what it has cost, how it ended."""
        self._output.relay(is_last=True)
        if self._process.stdin is not None:
            self._process.stdin.close()
        end = describe_exit(self._process.returncode)
        if self._process.returncode == -signal.SIGKILL and self._kill_reason:
            end = self._kill_reason
        ENGINE_EXITS.labels(end).inc()
        ENGINE_MEMORY_BYTES.set(0)
        ENGINE_MEMORY_LIMIT_BYTES.set(0)
        log.info("engine_ended", pid=self.pid, exit=end)

    def _has_exited(self, seconds: float) -> bool:
        """Wait for the exit without reaping, so that the process number stays its own."""
        deadline = time.monotonic() + seconds
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _exceeds_memory(self) -> bool:
        used = self._memory.resident_bytes()
        if used > self._memory_limit_bytes:
            used = self._memory.own_bytes()
        self._memory_used_bytes = max(self._memory_used_bytes, used)
        ENGINE_MEMORY_BYTES.set(used)
        return used > self._memory_limit_bytes


def _environment(
    inherited: Mapping[str, str], threads: int, device: str, log_context: Mapping[str, Any]
) -> dict[str, str]:
    environment = own_environment(inherited) | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return environment | {
        PARENT_PIPE: "1",
        DEVICE: device,
        LOG_CONTEXT: json.dumps(log_context),
        "PYTHONUNBUFFERED": "1",
        # Everything it reads is in the run folder.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
    }


def _offer_to_oom_killer(pid: int) -> None:
    with contextlib.suppress(OSError):  # not Linux, or already gone
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_OOM_SCORE_ADJUSTMENT))


def _kill_group(pid: int) -> None:
    # Nothing may be left of it; macOS answers EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
