"""On what is read of /proc/cpuinfo."""

from pathlib import Path

import pytest

from worker.distill.processor import Processor

XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu vme sse sse2 ssse3 fma f16c avx avx2 avx512f avx512_bf16 md_clear flush_l1d{more}
bugs\t\t: spectre_v1
"""
EPYC = XEON.replace("GenuineIntel", "AuthenticAMD").replace("Intel(R) Xeon(R) Processor", "AMD EPYC")
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd crc32 sve bf16 i8mm
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40
"""


def read(folder: Path, text: str) -> Processor:
    (folder / "cpuinfo").write_text(text)
    return Processor.here(folder / "cpuinfo")


class TestProcessor:
    def test_tells_its_name_and_by_what_libraries_choose_their_kernels(self, tmp_path: Path) -> None:
        found = read(tmp_path, XEON.format(more=" amx_bf16 amx_tile") * 2)
        assert found.title == "Intel(R) Xeon(R) Processor"
        assert found.kind == (
            "GenuineIntel 6/207: amx_bf16 amx_tile avx avx2 avx512_bf16 avx512f f16c fma sse sse2 ssse3"
        )

    def test_is_of_the_same_kind_under_a_kernel_that_lists_more(self, tmp_path: Path) -> None:
        """Harm: a new kernel makes every run under way inexact."""
        assert (
            read(tmp_path, XEON.format(more="")).kind == read(tmp_path, XEON.format(more=" la57 its_no smep sme")).kind
        )

    @pytest.mark.parametrize("text", [None, "", GRAVITON])
    def test_has_a_title_where_the_system_tells_none(self, text: str | None, tmp_path: Path) -> None:
        found = Processor.here(tmp_path / "none") if text is None else read(tmp_path, text)
        assert found.name == ""
        assert found.title

    def test_of_arm_is_told_by_its_maker_and_part(self, tmp_path: Path) -> None:
        assert read(tmp_path, GRAVITON).kind == "0x41 8/0xd40: asimd bf16 i8mm sve"

    @pytest.mark.parametrize(
        ("text", "is_fast"),
        [
            (XEON.format(more=" amx_bf16 amx_tile"), True),
            # Measured: 165 GFLOP/s of bf16 beside 310 of fp32, and a job in 117 s instead of 73.
            (XEON.format(more=""), False),
            (EPYC.format(more=""), True),
            (EPYC.format(more="").replace("avx512_bf16 ", ""), False),
            (GRAVITON, False),
            ("", False),
        ],
        ids=["AMX", "AMX hidden by a hypervisor", "AMD", "AMD without bf16", "Arm", "nothing told"],
    )
    def test_multiplies_bf16_fast_where_that_was_seen(self, text: str, is_fast: bool, tmp_path: Path) -> None:
        """Harm: `precision: auto` chooses the slower one, and each job takes half as long again."""
        assert read(tmp_path, text).has_fast_bf16 == is_fast
