from pathlib import Path

import pytest

from bench.hyperparameters import Hyperparameters
from bench.methods.measure import Outcome
from bench.methods.plan import Recipe, recipes
from bench.methods.tables import report
from tests.bench.quick_run import run_quick

SECONDS = {1: 22.0, 2: 900.0, 3: 20.0}
KD, TAID, SAGE = Recipe(("kd",)), Recipe(("taid",)), Recipe(("sage",))


def outcome(accuracy: float, seconds: float = 10.0) -> Outcome:
    return Outcome(
        accuracy=accuracy,
        loss=0.3,
        calibration_error=0.1,
        agreement=0.9,
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
                SAGE: {1: outcome(0.9, 15.0)},
            }
        }
        text = "\n".join(report(found, "Head."))
        assert "| taid | 83.20 ± 2.73 % (+1.20 ± 0.25) |" in text
        assert "above plain distillation, the interval of three seeds or more leaving zero out: taid on a." in text
        assert "| taid | 2.00 | 1.00 |" in text
        # One seed has no interval, and shows nothing.
        assert "| sage | 90.00 % (+9.00) |" in text
        assert "below plain distillation, the interval of three seeds or more leaving zero out: none." in text


@pytest.mark.slow
class TestQuickRun:
    def test_measures_everything_and_writes_the_report(self, tmp_path: Path) -> None:
        text = run_quick("bench.methods", tmp_path / "page.md")
        assert "<!-- bench-methods: begin -->" in text
        for name in ("kd", "kd + opdf", "sage + taid"):
            assert text.count(f"| {name} |") == 3
        assert "nan" not in text
