from dataclasses import asdict
from pathlib import Path

import pytest

from app.schemas.methods.sage import Sage
from bench.datasets import Dataset
from bench.flops import EncoderShape
from bench.hyperparameters import Hyperparameters
from bench.models import Models
from bench.results import cell_key
from bench.sage import measure as measuring
from bench.sage.__main__ import _section, main
from bench.sage.measure import Job, Pair, find
from bench.sage.sizes import SIZES
from bench.sage.tables import memory_row, report, selection_seconds, time_row
from bench.setting import Setting
from tests.bench.quick_run import run_quick

PARTS = {"loading": 2.0, "teacher_outputs": 10.0, "training": 60.0, "scoring": 4.0, "projection": 1.0, "synthesis": 3.0}


def job(seconds: float, **changes: object) -> Job:
    values: dict[str, object] = {
        "seconds": seconds,
        "parts": PARTS,
        "seconds_to_training": 15.0,
        "steps": 100,
        "engine_bytes": 10**9,
        "total_bytes": 12 * 10**8,
        "test_accuracy": 0.9,
    }
    return Job(**values | changes)  # type: ignore[arg-type]


def pair() -> Pair:
    kd = job(50.0, parts={"loading": 2.0, "teacher_outputs": 0.0, "training": 45.0})
    return Pair(1_000, 4_000, 0.0, 0.1, {"processor": "x", "cores": 2}, job(100.0), kd)


class TestTables:
    def test_selection_is_what_only_a_guided_method_does(self) -> None:
        assert selection_seconds(job(100.0)) == 8.0
        assert "| 8.0 % |" in time_row(pair())

    def test_jobs_are_compared_without_the_teachers_pass(self) -> None:
        assert time_row(pair()).endswith("| 50.0 s | 1.80 |")

    def test_memory_counts_what_was_held_at_a_time(self) -> None:
        assert "| 1.00 GB | 1.00 GB | 1.20 GB | 1.20 |" in memory_row(pair())

    def test_start_leaves_out_loading_and_the_teacher(self) -> None:
        assert "| 15.0 s | 2.0 s | 10.0 s | 3.0 s | 2000 ms |" in memory_row(pair())

    def test_the_precision_stands_above_them(self) -> None:
        assert "Computed in bf16 on x, 2 cores; begun " in report([pair()], "bf16")[0]


class TestFind:
    def test_a_new_default_of_sage_is_another_cell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: what the old defaults took stands under the new ones."""
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        setting = Setting(models, Hyperparameters(), 3, "fp32", 1, tmp_path)
        dataset, size = Dataset("a", Path("a"), 32, "", 2, {}, ""), SIZES["small"]
        ingredients = measuring._ingredients(size, dataset, setting)
        setting.results.save(cell_key(ingredients), asdict(pair()), ingredients)
        assert find(size, dataset, setting) == pair()

        class OtherSage(Sage):
            neighbors: int = Sage.model_fields["neighbors"].default + 1

        monkeypatch.setattr(measuring, "Sage", OtherSage)
        assert find(size, dataset, setting) is None


class TestOptions:
    @pytest.mark.parametrize(
        ("sizes", "title", "command"),
        [(["large", "small", "medium"], "", ""), (["medium", "small"], ", small and medium", " SIZE=small,medium")],
    )
    def test_some_sizes_alone_do_not_take_the_place_of_all(self, sizes: list[str], title: str, command: str) -> None:
        section = _section(sizes)
        assert section.title == f"What SAGE costs beside plain distillation{title}"
        assert section.command == f"bench-sage{command}"

    @pytest.mark.parametrize("size", ["medium", "large"])
    def test_the_rows_that_the_teacher_is_tuned_on_are_asked_for_at_every_size(
        self, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a traceback where a sentence would do."""
        folder = tmp_path / "data" / "sst2_glue"
        folder.mkdir(parents=True)
        for name in ("train.jsonl.gz", "dev.jsonl"):
            (folder / name).touch()
        given = ["--size", size, "--data", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr("sys.argv", ["bench.sage", *given])
        with pytest.raises(SystemExit, match=r"sst2_sentences lacks train\.jsonl"):
            main()


@pytest.mark.slow
class TestQuickRun:
    def test_measures_everything_and_writes_the_report(self, tmp_path: Path) -> None:
        text = run_quick("bench.sage", tmp_path / "page.md")
        assert "<!-- bench-sage: begin -->" in text
        assert text.count("| 320 |") == 2
