import platform
from pathlib import Path

from bench.report import processor


class TestProcessor:
    def test_tells_processors_of_one_name_apart(self, tmp_path: Path) -> None:
        """Harm: cells of a machine that multiplies bf16 and of one that does not stand in one table."""
        names = set()
        for model in (1, 17):
            core = (
                f"processor\t: 0\ncpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\nflags\t\t: fpu vme\n\n"
            )
            (tmp_path / "cpuinfo").write_text(core * 2)
            names.add(processor(tmp_path / "cpuinfo"))
        assert names == {"AMD EPYC (family 25, model 1)", "AMD EPYC (family 25, model 17)"}

    def test_tells_whether_a_hypervisor_lets_it_have_amx(self, tmp_path: Path) -> None:
        core = "processor\t: 0\nmodel name\t: Intel Xeon\nmodel\t: 207\nflags\t\t: avx512_bf16 {}\n"
        (tmp_path / "cpuinfo").write_text(core.format("amx_bf16"))
        assert processor(tmp_path / "cpuinfo") == "Intel Xeon (model 207, AMX)"
        (tmp_path / "cpuinfo").write_text(core.format(""))
        assert processor(tmp_path / "cpuinfo") == "Intel Xeon (model 207)"

    def test_is_the_architecture_where_the_system_tells_no_more(self, tmp_path: Path) -> None:
        assert processor(tmp_path / "none") == platform.machine()
        (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 243.75\n")
        assert processor(tmp_path / "cpuinfo") == platform.machine()
