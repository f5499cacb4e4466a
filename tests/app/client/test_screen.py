import io
from typing import Any

import pytest
from rich.console import Console

from app.client.screen import JobView, describe_leads, results_table, step, warn

Json = dict[str, Any]


def job(**changes: Any) -> Json:
    return {
        "status": "running",
        "terminal": False,
        "phase": "training",
        "round": 2,
        "rounds": 4,
        "progress": 0.5,
        "eta_seconds": 75.2,
        "metrics": {"loss": 0.3214},
        **changes,
    }


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestJobView:
    def test_prints_phase_round_loss_and_time_left_without_a_terminal(self, console: Console) -> None:
        with JobView(console) as view:
            view.show(job())
        assert printed(console).split() == [
            "training,",
            "round",
            "2",
            "of",
            "4",
            "50%",
            "loss",
            "0.321",
            "1:15",
            "left",
        ]

    def test_prints_one_line_per_change(self, console: Console) -> None:
        with JobView(console) as view:
            view.show(job())
            view.show(job(progress=0.51))
            view.show(job(round=3))
        assert len(printed(console).splitlines()) == 2

    def test_shows_a_live_bar_on_a_terminal(self) -> None:
        console = Console(file=io.StringIO(), width=100, force_terminal=True)
        with JobView(console) as view:
            view.show(job())
        assert "round 2 of 4" in printed(console)
        assert "1:15 left" in printed(console)

    def test_copes_with_a_job_that_has_said_nothing_yet(self, console: Console) -> None:
        silent = job(status="queued", phase=None, round=None, rounds=None, eta_seconds=None, metrics={}, progress=0.0)
        with JobView(console) as view:
            view.show(silent)
        assert printed(console).split() == ["queued", "0%"]

    def test_counts_the_passes_of_the_teacher_s_tuning_as_epochs(self, console: Console) -> None:
        with JobView(console) as view:
            view.show(job(phase="teacher_tuning"))
        assert "teacher tuning, epoch 2 of 4" in printed(console)

    def test_leaves_out_the_loss_of_an_earlier_phase(self, console: Console) -> None:
        with JobView(console) as view:
            view.show(job(phase="projection", round=None, rounds=None))
        assert "loss" not in printed(console)


class TestStep:
    def test_prints_the_sentence_that_the_step_ended_with(self, console: Console) -> None:
        with step(console, "Uploading") as current:
            current.text = "Uploaded 3 rows"
        assert printed(console) == "✓ Uploaded 3 rows\n"


class TestWarn:
    def test_prints_the_text_as_it_is(self, console: Console) -> None:
        """Harm: a student is taken over of which the job said that it may be wrong; or brackets are read as colours."""
        warn(console, "teacher_order_doubtful: The outputs [0] seem to be 'b'.")
        assert printed(console) == "! teacher_order_doubtful: The outputs [0] seem to be 'b'.\n"


class TestResultsTable:
    def numbers(self, accuracy: float) -> Json:
        quality = {"accuracy": accuracy, "macro_f1": accuracy, "loss": 0.1}
        return {
            "validation": {**quality, "accuracy": 0.0},
            "test": quality,
            "parameters": 22_700_000,
            "size_bytes": 90_800_000,
            "latency_ms": {"p50": 4.25, "p95": 5.0},
            "retention": accuracy / 0.97,
        }

    def test_has_a_row_for_each_model(self, console: Console) -> None:
        result = {
            "teacher": self.numbers(0.97),
            "student": self.numbers(0.96),
            "baselines": {"fine_tune": self.numbers(0.95)},
        }
        console.print(results_table(result, layers={"teacher": 6, "student": 3}, main_method="sage"))
        lines = printed(console).splitlines()
        row = next(line for line in lines if "SAGE" in line)
        assert [cell.strip() for cell in row.strip("│").split("│")] == [
            "student, 3 layers, SAGE",
            "96.00%",
            "98.97%",
            "22.7 M",
            "90.8 MB",
            "4.2 ms",
        ]
        assert any("teacher, 6 layers" in line and "97.00%" in line for line in lines)
        assert any("fine-tuned alone" in line and "95.00%" in line for line in lines)

    def test_tells_which_differences_the_rows_do_not_prove(self) -> None:
        """Harm: a student is taken for better than another by six of six hundred sentences."""
        ahead_of = {
            "teacher": {"accuracy": -0.02, "low": -0.031, "high": -0.008},
            "fine_tune": {"accuracy": 0.01, "low": -0.006, "high": 0.0261},
        }
        assert describe_leads({"student": {"ahead_of": ahead_of}}) == [
            "Student less teacher: -2.00 points of accuracy (95 % interval -3.10 to -0.80)",
            "Student less fine-tuned alone: +1.00 points of accuracy (95 % interval -0.60 to +2.61), which may be "
            "chance",
        ]

    def test_tells_nothing_of_what_was_not_measured(self) -> None:
        """Harm: a job of an older engine cannot be shown."""
        assert describe_leads({"student": self.numbers(0.9)}) == []

    def test_falls_back_to_the_validation_split(self, console: Console) -> None:
        numbers = {**self.numbers(0.97), "test": None}
        result = {"teacher": numbers, "student": numbers, "baselines": {}}
        table = results_table(result, layers={"teacher": 6, "student": 3}, main_method="kd")
        console.print(table)
        assert "On the validation set" in printed(console)
        assert "0.00%" in printed(console)
