from pathlib import Path

import pytest

from bench.datasets import Dataset
from bench.flops import EncoderShape
from bench.hyperparameters import Hyperparameters
from bench.methods import __main__ as program
from bench.methods.__main__ import _parser, _section
from bench.methods.measure import Outcome, _ingredients
from bench.methods.plan import Plan, Recipe, recipes
from bench.methods.tables import report
from bench.models import Models
from bench.setting import Setting
from tests.bench.quick_run import run_quick

SECONDS = {1: 22.0, 2: 900.0, 3: 20.0}
KD, TAID, SAGE = Recipe(("kd",)), Recipe(("taid",)), Recipe(("sage",))


def outcome(accuracy: float, seconds: float = 10.0, agreement: float = 0.9) -> Outcome:
    return Outcome(
        accuracy=accuracy,
        loss=0.3,
        calibration_error=0.1,
        agreement=agreement,
        teacher_accuracy=0.95,
        seconds=seconds,
        peak_bytes=1_000_000,
        load_before=0.1,
    )


class TestRecipes:
    def test_hold_every_loss_and_parameterisation_alone_and_with_sage(self) -> None:
        names = [recipe.name for recipe in recipes()]
        assert len(names) == len(set(names))
        for name in ("kd", "fine_tune", "taid", "kd + opdf", "kd + nd", "sage", "sage + taid", "sage + opdf"):
            assert name in names
        assert "sage + fine_tune" not in names

    def test_end_with_the_budget_and_share_the_plain_loss(self) -> None:
        sage, taid = Recipe(("sage", "taid")).parameters(Hyperparameters(temperature=3.0))
        assert (sage["early_stopping"], sage["temperature"]) == (False, 3.0)
        assert taid["lambda_start"] == 0.4


class TestReport:
    def test_compares_with_plain_distillation_seed_by_seed(self) -> None:
        found = {
            "a": {
                KD: {seed: outcome(0.80 + seed / 100) for seed in (1, 2, 3)},
                # The second of its jobs had company, which only adds to its time.
                TAID: {seed: outcome(0.81 + seed / 100 + seed / 1_000, SECONDS[seed]) for seed in (1, 2, 3)},
                SAGE: {1: outcome(0.9, 15.0, agreement=0.93)},
            }
        }
        text = "\n".join(report(found, "Head."))
        assert "| taid | 83.20 ± 2.73 % (+1.20 ± 0.25) |" in text
        assert "above plain distillation, the interval of three seeds or more leaving zero out: taid on a." in text
        assert "| taid | 2.00 | 1.00 |" in text
        # One seed has no interval, and shows nothing.
        assert "| sage | 90.00 % (+9.00; 1 seed) |" in text
        assert "| sage | 93.00 % (+3.00; 1 seed) |" in text
        assert "below plain distillation, the interval of three seeds or more leaving zero out: none." in text

    def test_two_seeds_have_no_interval(self) -> None:
        """Harm: two seeds that happen to agree look like the surest figure of the table."""
        both = {KD: {1: outcome(0.80), 2: outcome(0.82)}, TAID: {1: outcome(0.79), 2: outcome(0.81)}}
        text = "\n".join(report({"a": both}, "Head."))
        assert "| taid | 80.00 % (-1.00) |" in text
        assert "below plain distillation, the interval of three seeds or more leaving zero out: none." in text

    def test_times_are_compared_over_the_seeds_that_both_have(self) -> None:
        """Harm: the least of three seeds over the least of one."""
        plain = {1: outcome(0.8, 20.0), 2: outcome(0.8, 10.0)}
        text = "\n".join(report({"a": {KD: plain, SAGE: {1: outcome(0.9, 30.0)}}}, "Head."))
        assert "| sage | 1.50 | 1.00 |" in text


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "title", "command"),
        [
            ([], " and cost", ""),
            (["--size", "2000", "--dataset", "mrpc,qnli_10k,clinc150,sst2_sentences"], " and cost", ""),
            (["--seeds", "1"], " and cost", ""),
            (["--seeds", "5"], " and cost, 5 seeds", " SEEDS=5"),
            (["--size", "all"], " and cost, all rows", " SIZE=all"),
            (
                ["--device", "cuda", "--dataset", "mrpc,clinc150"],
                ", on a GPU, on clinc150 and mrpc",
                " DEVICE=cuda DATASET=clinc150,mrpc",
            ),
            (["--device", "cuda", "--at-once", "12"], ", on a GPU, 12 at once", " DEVICE=cuda AT_ONCE=12"),
        ],
    )
    def test_that_make_another_table_are_in_the_name_of_its_section(
        self, given: list[str], title: str, command: str
    ) -> None:
        """Harm: a table overwrites another, or cannot be made again by the command that stands above it."""
        section = _section(_parser().parse_args(given))
        assert (section.title, section.command) == (f"What they bring{title}", f"bench-methods{command}")

    def test_fewer_seeds_are_measured_and_all_that_are_there_are_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: one seed takes the place of the table of three."""
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        setting = Setting(models, Hyperparameters(), 3, "bf16", 1, tmp_path)
        dataset = Dataset("mrpc", Path("mrpc"), 32, "", 2, {}, "")
        asked: list[Plan] = []
        monkeypatch.setattr(program.datasets, "missing_files", lambda *_: None)
        monkeypatch.setattr(program, "prepare", lambda *_: (dataset, setting))
        monkeypatch.setattr(program, "measure_missing", lambda plans, *_: asked.extend(plans))
        monkeypatch.setattr(program, "find", lambda plan, *_: outcome(0.8) if plan.recipe == KD else None)
        page = tmp_path / "page.md"
        given = ["--seeds", "1", "--page", str(page), "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr("sys.argv", ["bench.methods", *given])
        assert program.main() == 0
        assert {plan.seed for plan in asked} == {1}
        assert "3 seeds where no other number is told, computed in bf16 on " in page.read_text()


class TestCells:
    def test_of_a_method_that_makes_other_students_now_are_measured_again(self, tmp_path: Path) -> None:
        """Harm: a table of two methods under one name, or one that throws hours of the others' measuring away."""
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        setting = Setting(models, Hyperparameters(), 3, "fp32", 1, tmp_path)
        dataset = Dataset("mrpc", Path("mrpc"), 32, "", 2, {}, "")
        told = [
            _ingredients(Plan(recipe, dataset.name, None, 1), dataset, setting).get("revisions")
            for recipe in (KD, Recipe(("sage", "rad")))
        ]
        assert told == [None, {"rad": 2}]


@pytest.mark.slow
class TestQuickRun:
    def test_measures_everything_and_writes_the_report(self, tmp_path: Path) -> None:
        text = run_quick("bench.methods", tmp_path / "page.md")
        assert "<!-- bench-methods: begin -->" in text
        for name in ("kd", "kd + opdf", "sage + taid"):
            assert text.count(f"| {name} |") == 3
        assert "nan" not in text
