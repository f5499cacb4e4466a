"""What is read of the kernel's files, which here are given ones."""

from pathlib import Path

import pytest

from worker import machine
from worker.machine import count_oom_kills


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
