"""The worker as seen from here: a command, never an import. The embedded system starts it as its child."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

# -P: a folder named `worker` where the person stands is not ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "worker")
# What only the worker imports; looked for, never imported, here.
WORKER_PACKAGES = ("torch", "transformers", "safetensors", "pyarrow", "faiss", "umap", "psutil")
# Beyond `shutdown_seconds`, which the worker may take to save a checkpoint and hand its work back: for its own end.
GOODBYE_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 30.0
# A worker that lived this long was healthy: its next death starts again from the shortest pause.
HEALTHY_SECONDS = 60.0
_TICK_SECONDS = 0.1


def describe_missing_packages() -> str:
    """What to tell a person whose installation has no worker; empty where it has one."""
    missing = [name for name in WORKER_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"The worker needs packages that are not installed here: {', '.join(missing)}. "
        "Install them with: pip install 'stillhouse[worker]'"
    )


class WorkerProcess:
    """The worker process, started again after a growing pause whenever it ends by itself.

    It runs in a session of its own, so that Ctrl-C reaches it once, from here. It reads a pipe that this
    process holds open: when this process is killed, the pipe closes and the worker stops too.
    """

    def __init__(self, command: tuple[str, ...], say: Callable[[str], None], *, shutdown_seconds: float) -> None:
        self._command = command
        self._say = say
        self._stop_seconds = shutdown_seconds + GOODBYE_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_again_at = 0.0
        self.pause_seconds = 1.0

    @property
    def pid(self) -> int | None:
        """The running worker's process id, or None between two workers."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            env={**os.environ, "STILLHOUSE_WORKER_PARENT_PIPE": "1"},
            start_new_session=True,
        )

    def look_after(self) -> None:
        """Notice a worker that ended, and start the next one when its pause is over. Returns at once."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_again_at:
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        self._close_pipe()
        self._process = None
        if now - self._started_at >= HEALTHY_SECONDS:
            self.pause_seconds = 1.0
        self._start_again_at = now + self.pause_seconds
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._say(f"worker    ended ({how}); starting it again in {self.pause_seconds:g} s")
        self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait_until_stopped(self, in_haste: Callable[[], bool]) -> None:
        """Wait for the worker's checkpoint and its goodbye; kill it when that takes too long, or `in_haste`."""
        if self._process is None:
            return
        deadline = time.monotonic() + self._stop_seconds
        while self._process.poll() is None:
            if time.monotonic() > deadline or in_haste():
                # Its engine has a group of its own and leaves by itself when the worker's pipe closes.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            time.sleep(_TICK_SECONDS)
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
