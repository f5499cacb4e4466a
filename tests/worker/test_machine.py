"""What is read of the kernel's files, which here are given ones."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import machine
from worker.machine import GroupMemory, count_oom_kills, engine_memory_limit_bytes

KILOBYTE = 1024
GIBIBYTE = 1024**3
STATUS = "Name:\tpython\nVmRSS:\t 1000 kB\nRssAnon:\t  100 kB\nRssFile:\t  880 kB\nRssShmem:\t   20 kB\nThreads:\t1\n"
ROLLUP = "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 1000 kB\nPss: 600 kB\nPss_Dirty: 70 kB\n"
ROLLUP_BY_KIND = "Pss_Anon: 70 kB\nPss_File: 525 kB\nPss_Shmem: 5 kB\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which seven processes were killed for memory, and a process in the cgroup /pod/ours."""
    (tmp_path / "cgroup" / "pod" / "ours").mkdir(parents=True)
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    (tmp_path / "self").write_text("0::/pod/ours\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "self")
    monkeypatch.setattr(machine, "_VMSTAT", tmp_path / "vmstat")
    return tmp_path


class TestEngineMemoryLimit:
    @pytest.mark.parametrize(("machine", "engine"), [(64, 57.6), (16, 14.4), (8, 7), (4, 3), (2, 1.5), (0.25, 0.1875)])
    def test_leaves_the_worker_room_on_a_small_machine_too(self, machine: float, engine: float) -> None:
        """Harm: the kernel kills the engine, and a container's worker with it, before the worker has seen that it is
        the job that needs too much."""
        assert engine_memory_limit_bytes(int(machine * GIBIBYTE)) == int(engine * GIBIBYTE)


class TestCountOomKills:
    def test_counts_our_own_container_and_not_the_machine(self, kernel: Path) -> None:
        """Harm: an engine that somebody killed is said to have needed too much memory because a stranger's
        container on the machine did."""
        (kernel / "cgroup" / "pod" / "ours" / "memory.events").write_text("oom 3\noom_kill 2\noom_group_kill 0\n")
        (kernel / "cgroup" / "pod" / "memory.events").write_text("oom_kill 4\n")
        assert count_oom_kills() == 2
        (kernel / "vmstat").write_text("oom_kill 8\n")
        (kernel / "cgroup" / "pod" / "memory.events").write_text("oom_kill 5\n")
        assert count_oom_kills() == 2

    def test_takes_none_for_an_answer(self, kernel: Path) -> None:
        (kernel / "cgroup" / "pod" / "ours" / "memory.events").write_text("oom_kill 0\n")
        assert count_oom_kills() == 0

    def test_sees_the_container_as_the_root_where_it_has_a_namespace_of_its_own(self, kernel: Path) -> None:
        (kernel / "self").write_text("0::/\n")
        (kernel / "cgroup" / "memory.events").write_text("oom_kill 1\n")
        assert count_oom_kills() == 1

    def test_reads_the_older_kind_of_cgroup(self, kernel: Path) -> None:
        (kernel / "self").write_text("4:memory:/pod/ours\n1:cpu,cpuacct:/pod/ours\n")
        folder = kernel / "cgroup" / "memory" / "pod" / "ours"
        folder.mkdir(parents=True)
        (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
        assert count_oom_kills() == 3

    def test_counts_the_machine_where_no_container_counts(self, kernel: Path) -> None:
        assert count_oom_kills() == 7
        (kernel / "vmstat").unlink()
        assert count_oom_kills() == 0


@pytest.fixture
def process(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """A real process, and the folder of what the kernel says of it."""
    code = "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # before that it has hardly any memory
        folder = kernel / "processes" / str(child.pid)
        folder.mkdir(parents=True)
        monkeypatch.setattr(machine, "_PROCESSES", kernel / "processes")
        yield child.pid, folder
        child.kill()


class TestGroupMemory:
    def test_counts_what_the_kernel_cannot_have_back(self, process: tuple[int, Path]) -> None:
        pid, folder = process
        (folder / "status").write_text(STATUS)
        (folder / "smaps_rollup").write_text(ROLLUP + ROLLUP_BY_KIND)
        assert GroupMemory(pid).resident_bytes() == 120 * KILOBYTE
        assert GroupMemory(pid).own_bytes() == 75 * KILOBYTE

    def test_an_older_kernel_s_rollup_does_not_bring_mapped_files_back_in(self, process: tuple[int, Path]) -> None:
        pid, folder = process
        (folder / "status").write_text(STATUS)
        (folder / "smaps_rollup").write_text(ROLLUP)
        assert GroupMemory(pid).own_bytes() == 120 * KILOBYTE

    def test_counts_everything_where_the_kinds_are_not_told_apart(self, process: tuple[int, Path]) -> None:
        pid, _ = process
        memory = GroupMemory(pid)
        assert memory.resident_bytes() > 1000 * KILOBYTE
        assert 0 < memory.own_bytes() <= memory.resident_bytes()

    def test_of_a_process_that_has_ended_is_nothing(self) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
        memory = GroupMemory(child.pid)
        assert (memory.resident_bytes(), memory.own_bytes()) == (0, 0)
