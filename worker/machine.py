"""What this machine, or the container that we are in, lets us use: cores, memory, and whether memory ran out."""

import math
import os
import time
from pathlib import Path

import psutil

# The engine's share of the memory when nothing is set: the rest is the worker's own and the kernel's.
ENGINE_MEMORY_SHARE = 0.9
# Of a small machine that share would leave less than the worker takes, and the kernel would kill before anybody has
# looked: so much is spared at least, but never more than a quarter, without which hardly a job would fit.
SPARED_BYTES = 1024**3
_LEAST_ENGINE_SHARE = 0.75
CHILD_SEARCH_SECONDS = 1.0
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_VMSTAT = Path("/proc/vmstat")
_PROCESSES = Path("/proc")
# cgroup v1 says "no limit" with a number near 2**63.
_NO_LIMIT_BYTES = 2**60


def count_cores() -> int:
    """Cores that this process may use: its affinity, and the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroup_folders("cpu"):
        quota = _read(folder / "cpu.max").split()
        if len(quota) == 2 and quota[0].isdigit():
            cores = min(cores, math.ceil(int(quota[0]) / int(quota[1])))
        period = _read_number(folder / "cpu.cfs_period_us")
        used = _read_number(folder / "cpu.cfs_quota_us")
        if period and used and used > 0:
            cores = min(cores, math.ceil(used / period))
    return max(1, cores)


def memory_bytes() -> int:
    """Memory of the container, or of the machine where it sets no limit."""
    limits = [int(psutil.virtual_memory().total)]
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read_number(folder / name)
            if limit is not None and 0 < limit < _NO_LIMIT_BYTES:
                limits.append(limit)
    return min(limits)


def engine_memory_limit_bytes(machine_bytes: int) -> int:
    """What the engine may use of a machine's or container's memory when nothing is set."""
    limit = min(ENGINE_MEMORY_SHARE * machine_bytes, machine_bytes - SPARED_BYTES)
    return int(max(_LEAST_ENGINE_SHARE * machine_bytes, limit))


def count_oom_kills() -> int:
    """Processes that the kernel has killed for memory so far: of our container where its cgroup counts them, of the
    whole machine, those of strangers among them, where none does.

    A container's count includes what is killed in it because the machine, and not the container, ran out.
    """
    folders = _cgroup_folders("memory")
    for name in ("memory.events", "memory.oom_control"):
        for folder in folders:  # our own first, then those above it
            count = _count_in(folder / name, "oom_kill")
            if count is not None:
                return count
    return _count_in(_VMSTAT, "oom_kill") or 0


class GroupMemory:
    """The memory of a process and its children that the kernel cannot have back while they live.

    Not the pages of mapped files: those it takes back when memory runs short, before it kills anybody. Where the
    kernel does not tell the kinds of pages apart, they count too.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._processes: list[psutil.Process] = []
        self._next_search = 0.0

    def resident_bytes(self) -> int:
        """Resident memory; pages that several processes share count for each of them."""
        self._search()
        return sum(map(_resident_bytes, self._processes))

    def own_bytes(self) -> int:
        """As resident_bytes, with shared pages counted once in all; slow to read."""
        self._search()
        return sum(map(_own_bytes, self._processes))

    def _search(self) -> None:
        # Finding children reads every process of the machine.
        if time.monotonic() < self._next_search:
            return
        self._next_search = time.monotonic() + CHILD_SEARCH_SECONDS
        try:
            leader = psutil.Process(self._pid)
            self._processes = [leader, *leader.children(recursive=True)]
        except psutil.Error:
            self._processes = []


def _resident_bytes(process: psutil.Process) -> int:
    kept = _sum_of_kilobytes(_PROCESSES / str(process.pid) / "status", "RssAnon", "RssShmem")
    if kept is not None:
        return kept
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own_bytes(process: psutil.Process) -> int:
    kept = _sum_of_kilobytes(_PROCESSES / str(process.pid) / "smaps_rollup", "Pss_Anon", "Pss_Shmem")
    if kept is not None:
        return kept
    # Both are too much, the one for what is shared, the other for what is mapped.
    resident = _resident_bytes(process)
    try:
        return min(resident, int(getattr(process.memory_full_info(), "pss", resident)))
    except psutil.Error:
        return resident


def _cgroup_folders(controller: str) -> list[Path]:
    """Our cgroup's folders for a controller and those above it, for cgroup v2 and v1 alike."""
    folders: list[Path] = []
    for line in _read(_OWN_CGROUP).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        roots = [_CGROUP / controllers, _CGROUP / controller] if controllers else [_CGROUP]
        for root in roots:
            own = root / path.strip("/")
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return list(dict.fromkeys(folders))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _sum_of_kilobytes(path: Path, *names: str) -> int | None:
    """The sum of the lines `NAME: COUNT kB` of these names, in bytes; None where one of them is missing."""
    found = {}
    for line in _read(path).splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in names and len(words) == 2 and words[0].isdigit():
            found[name] = 1024 * int(words[0])
    return sum(found.values()) if len(found) == len(names) else None


def _count_in(path: Path, name: str) -> int | None:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None
