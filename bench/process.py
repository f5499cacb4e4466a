"""A program run to its end, measured from outside: the same clock and the same memory reading for every system."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.fixtures.parent import die_with_parent

_POLL_SECONDS = 0.1
_LOG_TAIL_CHARACTERS = 3_000


@dataclass(frozen=True)
class Measured:
    """Wall time in seconds from launch to exit, and the most memory that was resident at a time, in bytes."""

    seconds: float
    peak_rss_bytes: int
    started_at: float  # seconds since 1970
    peak_total_bytes: int = 0  # of it and its children together; 0 where they were not asked about


def run_measured(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path, with_children: bool = False
) -> Measured:
    """Run `command`; raises RuntimeError with the end of its log where it fails.

    It leaves with this process, however that goes: its standard input is a pipe that closes then, for a program that
    watches it, and Linux kills one that does not. A bench that is run again would else measure beside it.
    """
    peak = total_peak = 0
    with log.open("wb") as output:
        started_at, began = time.time(), time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment},
            cwd=cwd,
            stdin=subprocess.PIPE,
            preexec_fn=die_with_parent,
        ) as process:
            try:
                while True:
                    peak = max(peak, _peak_rss_bytes(process.pid))
                    if with_children:
                        total_peak = max(total_peak, _total_rss_bytes(process.pid))
                    try:
                        status = process.wait(timeout=_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        continue
                    break
            except BaseException:
                process.kill()
                raise
            seconds = time.perf_counter() - began
    if status != 0:
        tail = log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
        raise RuntimeError(f"{' '.join(command)} ended with status {status}:\n{tail}")
    return Measured(seconds, peak, started_at, total_peak)


def _peak_rss_bytes(pid: int) -> int:
    """The kernel's own high-water mark: it loses no peak between two readings."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _total_rss_bytes(pid: int) -> int:
    """What the process and all below it hold at this moment."""
    total = 0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:  # one that ended meanwhile: the next reading knows the others
        pass
    return total
