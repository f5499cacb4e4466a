"""The processes of a chaos run: started, killed, frozen, started again, and found again in /proc.

Every process carries a mark in its environment, which its children inherit, so that what a killed parent left
behind is found wherever it went.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fixtures.parent import die_with_parent

MARK = "CHAOS_RUN"  # not STILLHOUSE_...: the worker keeps those from its engine
ENGINE_MODULE = "worker.distill"
# More than a worker's own limit for handing back its work, on a machine that does much else.
LEAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Seen:
    """A process as /proc shows it."""

    pid: int
    parent: int
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.pid} {' '.join(self.command)}"

    @property
    def engine_job(self) -> str | None:
        """The job whose run folder this process distils in; None for all but engines."""
        for before, module, folder in zip(self.command, self.command[1:], self.command[2:], strict=False):
            if (before, module) == ("-m", ENGINE_MODULE):
                return Path(folder).parent.name
        return None


def marked_processes(mark: str) -> list[Seen]:
    """The living processes that carry the mark, this one left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            # A zombie's environment is empty: it is dead, and only waits to be counted.
            if f"{MARK}={mark}".encode() not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = tuple(part.decode() for part in (entry / "cmdline").read_bytes().split(b"\0")[:-1])
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # gone meanwhile, or another user's
        found.append(Seen(int(entry.name), parent, command))
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Program:
    """A process that is to run all the time: `look_after` starts it again after a death and its pause."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    user: str | None = None
    folder: Path | None = None
    # Deaths that nobody asked for.
    accidents: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    is_frozen: bool = False
    is_leaving: bool = False  # was told to stop by itself
    start_at: float = 0.0
    started_at: float = 0.0
    _told_at: float = 0.0

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    @property
    def is_up(self) -> bool:
        """Runs, and is neither frozen nor told to stop."""
        return self.process is not None and not self.is_frozen and not self.is_leaving

    def start(self) -> None:
        identity: dict[str, Any] = {}
        if self.user is not None:
            identity = {"user": self.user, "group": _group_of(self.user), "extra_groups": []}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.command],
                env={**self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
                # A run that is killed leaves nothing behind. Dies with the thread that starts it: the main one.
                preexec_fn=die_with_parent,
                **identity,
            )
        self.started_at = time.monotonic()
        self.is_frozen = self.is_leaving = False

    def stop(self, number: signal.Signals, *, pause_seconds: float) -> None:
        """Send what ends it; it is started again `pause_seconds` from now at the earliest."""
        self._told_at = time.monotonic()
        self.start_at = self._told_at + pause_seconds
        self.is_leaving = True
        send(self.pid, number)

    def freeze(self) -> None:
        self.is_frozen = True
        send(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.is_frozen and self.process is not None:
            self.is_frozen = False
            send(self.pid, signal.SIGCONT)

    def look_after(self) -> None:
        """Notice that it ended, start it again when its pause is over. Returns at once."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                self._hurry()
                return
            if not self.is_leaving:
                self.accidents.append(f"{self.name} ended by itself with {code}; see {self.log.name}")
                self.start_at = time.monotonic() + 1.0
            self.process = None
        if time.monotonic() >= self.start_at:
            self.start()

    def _hurry(self) -> None:
        if self.is_leaving and time.monotonic() - self._told_at > LEAVE_SECONDS:
            self.accidents.append(
                f"{self.name} did not end within {LEAVE_SECONDS:g} s of being told to; see {self.log.name}"
            )
            self.kill()

    def ask_to_end(self) -> None:
        """Tell it once, as an operator would: a second SIGTERM asks some for haste."""
        self.thaw()
        if self.process is not None and not self.is_leaving:
            self.is_leaving = True
            send(self.pid, signal.SIGTERM)

    def end(self, seconds: float = 60.0) -> int | None:
        """Stop it for good; its exit status, None when it had to be killed."""
        if self.process is None:
            return 0
        self.ask_to_end()
        try:
            code: int | None = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def python(*arguments: str) -> list[str]:
    """A command of this interpreter. -P: a folder named `worker` where the person stands is not ours."""
    return [sys.executable, "-P", *arguments]


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
