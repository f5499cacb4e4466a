import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.datasets import Dataset
from bench.flops import EncoderShape
from bench.hyperparameters import Hyperparameters
from bench.models import Models
from bench.quality import __main__ as program
from bench.quality.__main__ import _change, _parser, _section, main
from bench.quality.measure import Outcome, _ingredients, find, measure, training_seconds
from bench.quality.plan import ARMS, KD, LESS, SAGE, SAGE_ON_LESS, WARMUP_EPOCHS, Plan, method
from bench.quality.tables import is_above, report
from bench.setting import Setting
from bench.tiny import PAIR, make_tiny
from tests.bench.quick_run import run_quick
from worker.distill.methods.registry import METHODS


def outcome(accuracy: float, agreement: float = 0.9) -> Outcome:
    quality = {"accuracy": accuracy, "macro_f1": accuracy, "loss": 0.3, "calibration_error": 0.05}
    return Outcome(test=quality, validation=quality, retention=1.0, agreement=agreement, seconds=10.0)


def cell(seed: int, sage: float, kd: float = 0.8) -> dict[str, Outcome]:
    # What a seed does to all arms alike is no difference between them.
    others = {arm: outcome(kd + seed / 100) for arm in (*ARMS, "teacher")}
    return others | {SAGE: outcome(sage + seed / 100)}


def accuracy(found: Outcome) -> float:
    return found.test["accuracy"]


class TestVerdicts:
    def test_a_gain_of_every_seed_is_above(self) -> None:
        measured = {seed: cell(seed, 0.82 + seed / 1_000) for seed in (1, 2, 3)}
        assert is_above(measured, SAGE, KD, accuracy)
        assert not is_above(measured, KD, SAGE, accuracy)

    def test_a_gain_of_some_seeds_is_not(self) -> None:
        measured = {1: cell(1, 0.84), 2: cell(2, 0.79), 3: cell(3, 0.81)}
        assert not is_above(measured, SAGE, KD, accuracy)

    def test_one_seed_shows_nothing(self) -> None:
        assert not is_above({1: cell(1, 0.9)}, SAGE, KD, accuracy)

    def test_two_seeds_show_nothing_either(self) -> None:
        """Harm: two gains that are next to equal by chance have an interval of next to nothing."""
        assert not is_above({seed: cell(seed, 0.9) for seed in (1, 2)}, SAGE, KD, accuracy)
        assert is_above({seed: cell(seed, 0.9) for seed in (1, 2, 3)}, SAGE, KD, accuracy)

    def test_are_written_for_each_goal(self) -> None:
        measured = {seed: cell(seed, 0.82 + seed / 1_000) for seed in (1, 2, 3)}
        text = "\n".join(report([("a", None, measured), ("b", 2_000, measured)], "Intro."))
        assert (
            "- accuracy, all rows: SAGE above plain KD (interval of three seeds or more above zero) on 1 of 1 (a); "
            "below it on 0 of 1" in text
        )
        # Agreement is the same for all arms here, so at 2,000 rows one half of the goal is missing.
        assert (
            "- accuracy and agreement, 2,000 rows: SAGE above plain KD (interval of three seeds or more above zero) on "
            "0 of 1" in text
        )

    def test_several_datasets_are_told_together_too(self) -> None:
        """Harm: a figure over all of them that no command makes, or one of datasets that lack half of it."""
        tables = {
            name: {
                seed: {
                    KD: outcome(0.8, 0.9),
                    SAGE: outcome(0.8 + gain / 100 + seed / 1_000, 0.93),
                    "teacher": outcome(1.0),
                }
                for seed in (1, 2, 3)
            }
            for name, gain in (("a", 0), ("b", 2))
        }
        text = "\n".join(report([(name, None, measured) for name, measured in tables.items()], "Intro."))
        # 0.1, 0.2, 0.3, 2.1, 2.2 and 2.3: a deviation of 1.099 over the root of six, by 2.571.
        assert (
            "- all rows, the 2 datasets together: SAGE less plain KD accuracy +1.20 ± 1.15, agreement +3.00 ± 0.00 "
            "(6 pairs). The pairs" in text
        )
        assert "oversampling accuracy" not in text
        assert "together" not in "\n".join(report([("a", None, tables["a"])], "Intro."))


class TestReport:
    def test_of_a_trial_tells_what_came_and_gives_no_verdict(self) -> None:
        measured = {seed: cell(seed, 0.82, 0.8) | {KD: outcome(0.8 + seed / 100, 0.88)} for seed in (1, 2)}
        text = "\n".join(report([("a", 2_000, measured)], "Intro.", is_trial=True))
        assert "Teacher: 81.50 %. Seeds: 1, 2." in text
        assert (
            "| SAGE | 83.50 ± 6.35 % | +2.00 ± 0.00 | 90.00 ± 0.00 % | +2.00 ± 0.00 | 0.3000 | +0.0000 ± 0.0000 |"
            in text
        )
        assert "above zero" not in text

    def test_has_no_times_of_cells_that_ran_beside_others(self) -> None:
        timed = {1: cell(1, 0.8)}
        untimed = {1: {arm: replace(found, seconds=None) for arm, found in timed[1].items()}}
        assert "| ECE | seconds |" in "\n".join(report([("a", None, timed)], "Intro."))
        assert "| ECE |\n" in "\n".join(report([("a", None, untimed)], "Intro."))

    def test_of_a_pair_of_the_papers_size_says_what_is_kept_of_the_teacher(self) -> None:
        measured = {seed: {arm: outcome(0.9) for arm in (KD, SAGE, "teacher")} for seed in (1, 2)}
        text = "\n".join(report([("sst2_glue", None, measured)], "Intro.", at_papers_size=True))
        assert "- sst2_glue, SAGE: keeps 100.00 ± 0.00 % (the paper's: 99.6 %)." in text

    def test_of_some_arms_says_nothing_of_those_that_are_not_there(self) -> None:
        """Harm: "above both controls on none", of controls that nobody measured."""
        measured = {seed: {arm: outcome(0.9) for arm in (KD, "random_anchors", SAGE, "teacher")} for seed in (1, 2)}
        text = "\n".join(report([("a", 2_000, measured)], "Intro."))
        assert (
            "SAGE above plain KD (interval of three seeds or more above zero) on 0 of 1; below it on 0 of 1; above "
            "random anchors on" in text
        )
        assert "both controls" not in text
        assert "60 %" not in text
        without_kd = {seed: {arm: cell[arm] for arm in (SAGE, "teacher")} for seed, cell in measured.items()}
        assert "above" not in "\n".join(report([("a", 2_000, without_kd)], "Intro."))

    def test_of_a_pair_of_the_papers_size_leaves_out_what_the_paper_has_not(self) -> None:
        measured = {1: {arm: outcome(0.9) for arm in (KD, "teacher")}}
        found = [("mrpc", None, measured), ("sst2_glue", 2_000, measured), ("sst2_glue", None, measured)]
        text = "\n".join(report(found, "Intro.", at_papers_size=True))
        assert text.count("(the paper's:") == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["--at-once", "0"], "--at-once 0: it takes 1 or more"),
            (["--at-once", "2"], "needs --device cuda"),
            (["--epochs", "1"], "1: the warm-up takes 1 of them, so it takes more"),
            (["--epochs", "nan"], "nan: the warm-up"),
            (["--arms", "sage_on_less"], "alone has nothing to stand beside: add kd"),
            (["--change", "lift"], "'lift' is not name=value"),
            (["--change", "candidate=2"], "--change candidate: unknown field. Did you mean 'candidates'?"),
            (["--change", "candidates=0"], "--change candidates: Input should be greater than or equal to 1"),
        ],
    )
    def test_that_make_no_sense_are_refused_by_their_value(
        self, given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["bench.quality", *given])
        with pytest.raises(SystemExit):
            main()
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("given", "title", "command"),
        [
            ([], "", ""),
            (["--size", "2000,all"], "", ""),
            (["--size", "all", "--arms", "sage,kd"], ", all rows, 2 of its arms", " SIZE=all ARMS=kd,sage"),
            (["--pair", "mpnet"], ": mpnet", " PAIR=mpnet"),
            (["--pair", "mpnet", "--size", "all"], ": mpnet", " PAIR=mpnet"),
            (["--pair", "mpnet", "--size", "2000"], ": mpnet, 2,000 rows", " PAIR=mpnet SIZE=2000"),
            (["--epochs", "12", "--device", "cuda"], ", 12 epochs, on a GPU", " EPOCHS=12 DEVICE=cuda"),
            (["--dataset", "mrpc,qnli_10k,clinc150,sst2_sentences"], "", ""),
            (["--dataset", "mrpc", "--device", "cuda"], ", on mrpc, on a GPU", " DATASET=mrpc DEVICE=cuda"),
            (["--device", "cuda", "--at-once", "12"], ", on a GPU, 12 at once", " DEVICE=cuda AT_ONCE=12"),
            (
                ["--size", "all", "--arms", "kd,sage", "--dataset", "sst2_sentences,mrpc,clinc150"],
                ", all rows, 2 of its arms, on sst2_sentences, clinc150 and mrpc",
                " SIZE=all ARMS=kd,sage DATASET=sst2_sentences,clinc150,mrpc",
            ),
            (["--pair", "mpnet", "--dataset", "qnli_10k,sst2_glue"], ": mpnet", " PAIR=mpnet"),
            (["--pair", "mpnet", "--dataset", "qnli_10k"], ": mpnet, on qnli_10k", " PAIR=mpnet DATASET=qnli_10k"),
            (["--seeds", "2"], "", ""),
            (["--seeds", "8"], ", 8 seeds", " SEEDS=8"),
            (["--first-seed", "6", "--seeds", "10"], ", seeds 6 to 10", " FIRST_SEED=6 SEEDS=10"),
        ],
    )
    def test_that_make_another_table_are_in_the_name_of_its_section(
        self, given: list[str], title: str, command: str
    ) -> None:
        """Harm: a table overwrites another, or cannot be made again by the command that stands above it."""
        section = _section(_parser().parse_args(given))
        assert (section.title, section.command) == (f"What SAGE is worth{title}", f"bench-quality{command}")

    @pytest.mark.parametrize(
        ("options", "measured", "told"),
        [([], {1, 2}, "1, 2, 3, 4, 5"), (["--trial"], {1, 2}, "1, 2"), (["--first-seed", "2"], {2}, "2")],
    )
    def test_fewer_seeds_are_measured_and_all_that_are_there_are_told(
        self,
        options: list[str],
        measured: set[int],
        told: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Harm: two seeds take the place of the table of five. A trial, or a sample of its own, asks for no more than
        it says."""
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        setting = Setting(models, Hyperparameters(), 3, "bf16", 1, tmp_path)
        asked: list[Plan] = []
        monkeypatch.setattr(program.datasets, "missing_files", lambda *_: None)
        monkeypatch.setattr(
            program, "prepare", lambda *_, **__: (Dataset("mrpc", Path("mrpc"), 32, "", 2, {}, ""), setting)
        )
        monkeypatch.setattr(program, "measure_missing", lambda plans, *_: asked.extend(plans))
        monkeypatch.setattr(program, "find", lambda plan, *_: cell(plan.seed, 0.82) if plan.seed < 6 else None)
        page = tmp_path / "page.md"
        given = ["--seeds", "2", "--page", str(page), "--cache", str(tmp_path / "cache"), *options]
        monkeypatch.setattr("sys.argv", ["bench.quality", *given])
        assert main() == 0
        assert {plan.seed for plan in asked} == measured
        text = capsys.readouterr().out
        assert f"Seeds: {told}." in text
        assert "Computed in bf16 on " in text

    def test_a_change_may_be_a_word(self) -> None:
        assert [_change(text) for text in ("lift=shift", "neighbors=20")] == [("lift", "shift"), ("neighbors", 20)]

    def test_changes_may_be_named_one_by_one(self) -> None:
        """Harm: hours of another method than the one that was asked for."""
        given = ["--change", "lift=shift", "--change", "neighbors=20", "rounds=2"]
        assert _parser().parse_args(given).change == [("lift", "shift"), ("neighbors", 20), ("rounds", 2)]
        assert _parser().parse_args([]).change == []


class TestMethod:
    def test_budgets_shrink_with_their_warm_up(self) -> None:
        less = method(SAGE_ON_LESS, Hyperparameters(), {})
        assert less == method(SAGE, Hyperparameters(), {}) | {"warmup_epochs": LESS * WARMUP_EPOCHS}

    def test_changes_reach_the_arms_that_have_the_parameter(self) -> None:
        changes = {"neighbors": 3}
        assert [method(arm, Hyperparameters(), changes).get("neighbors") for arm in (KD, "oversample", SAGE)] == [
            None,
            3,
            3,
        ]


class TestTrainingSeconds:
    def test_last_to_the_last_checkpoint_of_the_student(self) -> None:
        events = [
            {"type": "checkpoint", "arm": "teacher", "time": "1970-01-01T00:00:05+00:00"},
            {"type": "phase", "phase": "training", "time": "1970-01-01T00:00:10+00:00"},
            {"type": "checkpoint", "arm": "student", "time": "1970-01-01T00:00:15+00:00"},
            {"type": "checkpoint", "arm": "student", "time": "1970-01-01T00:00:30+00:00"},
            {"type": "phase", "phase": "evaluating", "time": "1970-01-01T00:00:31+00:00"},
        ]
        assert training_seconds(events) == 20.0


@pytest.mark.slow
class TestCells:
    def test_arms_are_added_to_a_cell_and_those_that_are_there_stay(self, tmp_path: Path) -> None:
        """Harm: hours of a table measured again, for one more arm of it."""
        models, dataset = make_tiny(tmp_path, train_rows=64)
        setting = Setting(models, Hyperparameters(), PAIR.student_layers, "fp32", 1, tmp_path)
        one, both = (Plan("tiny", None, 1, epochs=1.5, arms=arms) for arms in ((KD,), ("fine_tune", KD)))
        alone = measure(one, dataset, setting)
        assert find(both, dataset, setting) is None
        (kept,) = (tmp_path / "results").iterdir()
        written = kept.stat()
        found = measure(both, dataset, setting)
        assert found == find(both, dataset, setting)
        assert {arm: found[arm] for arm in (KD, "teacher")} == alone
        assert kept.stat() == written
        content = json.loads(kept.read_text())
        assert 0 < time.time() - content["measured"]["started_at"] < 600
        assert content["measured"]["load_before"] >= 0
        # As cells of before it was kept are: they are found as ever.
        del content["measured"]
        kept.write_text(json.dumps(content))
        assert find(one, dataset, setting) == alone
        # Another plan's arms are not taken for these.
        assert find(replace(one, seed=2), dataset, setting) is None
        assert find(replace(one, epochs=2.0), dataset, setting) is None

    def test_of_a_method_that_has_changed_are_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: what it was stands for what it is, seed by seed beside it."""
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        setting = Setting(models, Hyperparameters(), 3, "fp32", 1, tmp_path)
        dataset, plan = Dataset("mrpc", Path("mrpc"), 32, "", 2, {}, ""), Plan("mrpc", 2_000, 1)
        before = {arm: _ingredients(arm, plan, dataset, setting) for arm in (KD, SAGE)}
        monkeypatch.setattr(METHODS[SAGE], "revision", 2)
        after = {arm: _ingredients(arm, plan, dataset, setting) for arm in (KD, SAGE)}
        assert after[KD] == before[KD]
        assert after[SAGE] == before[SAGE] | {"revisions": {SAGE: 2}}


@pytest.mark.slow
class TestQuickRun:
    def test_measures_everything_and_writes_the_report(self, tmp_path: Path) -> None:
        text = run_quick("bench.quality", tmp_path / "page.md")
        assert "<!-- bench-quality: begin -->" in text
        for title in ("fine-tuning alone", "plain KD", "oversampling", "random anchors", "SAGE", "SAGE on 60 %"):
            assert f"| {title}" in text
        assert "nan" not in text
