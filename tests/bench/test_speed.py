import importlib.util
import math
import subprocess
from pathlib import Path

import pytest

from bench.datasets import Dataset
from bench.engine import PHASES, phase_seconds, student_steps
from bench.figures import median_ratio, paired_difference, ratios
from bench.flops import EncoderShape, TokenCounts, training_flops
from bench.hyperparameters import Hyperparameters
from bench.models import Models
from bench.process import Measured
from bench.report import Section, write_section
from bench.results import Cell, Results, cell_key, hash_files
from bench.speed import __main__ as program
from bench.speed import comparison as comparing
from bench.speed.comparison import Comparison
from bench.speed.plan import SYSTEMS, System, chosen_systems
from bench.speed.tables import job_ratio, of_another_time, system_row, useful_share, verdict
from tests.bench.quick_run import run_quick


def make_cell(**changes: object) -> Cell:
    values: dict[str, object] = {
        "system": "stillhouse",
        "dataset": "tiny",
        "round": 1,
        "seconds": 10.0,
        "phases": {"start": 1.0, "load": 1.0, "training": 7.0, "evaluation": 1.0},
        "step_seconds_median": 0.1,
        "step_seconds_mean": 0.2,
        "steps": 20,
        "test_accuracy": 0.9,
        "peak_rss_bytes": 10**9,
        "started_at": 0.0,
        "load_before": 0.5,
        "load_after": 1.5,
        "machine": {"processor": "x", "cores": 2, "python": "3"},
        "packages": {"torch": "2"},
    }
    return Cell(**values | changes)  # type: ignore[arg-type]


class TestRatios:
    def test_are_taken_within_a_round(self) -> None:
        assert ratios({1: 1.0, 2: 3.0, 3: 9.0}, {2: 6.0, 1: 4.0}) == [0.25, 0.5]

    def test_median_is_of_the_ratios_not_the_ratio_of_the_medians(self) -> None:
        # A round in which the machine was slow for both: its ratio stands for as much as any other's.
        ours, theirs = {1: 1.0, 2: 100.0, 3: 2.0}, {1: 4.0, 2: 200.0, 3: 4.0}
        assert median_ratio(ours, theirs) == 0.5

    def test_no_round_in_common_gives_nothing(self) -> None:
        assert median_ratio({1: 1.0}, {2: 1.0}) is None


class TestPairedDifference:
    def test_interval_is_students_t(self) -> None:
        difference = paired_difference({1: 3.0, 2: 5.0, 3: 7.0}, {1: 2.0, 2: 3.0, 3: 4.0})
        assert difference is not None
        assert difference.mean == 2.0
        # Differences 1, 2 and 3: deviation 1, two degrees of freedom.
        assert difference.half_width == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)

    def test_what_both_share_makes_no_spread(self) -> None:
        difference = paired_difference({1: 0.5, 2: 1.5}, {1: 0.25, 2: 1.25})
        assert difference is not None
        assert (difference.mean, difference.half_width) == (0.25, 0.0)

    def test_a_single_pair_tells_nothing_of_the_spread(self) -> None:
        difference = paired_difference({1: 0.5}, {1: 0.25})
        assert difference is not None
        assert difference.half_width == math.inf

    def test_no_pair_gives_nothing(self) -> None:
        assert paired_difference({1: 0.5}, {}) is None


BEST = System("textbrewer", "best")


class TestJobRatio:
    def test_is_of_the_rounds_that_were_measured_in_one_go(self) -> None:
        """Harm: after a change of the engine it is measured anew, and divided by what its peers took on another day."""
        ours = {number: make_cell(seconds=10.0, started_at=1e6 * number) for number in (1, 2, 3)}
        theirs = {number: make_cell(seconds=20.0 * number, started_at=1e6 * number + 60) for number in (1, 2, 3)}
        theirs[1] = make_cell(seconds=1.0, started_at=1e6 - 4_000)
        theirs[3] = make_cell(seconds=1.0, started_at=3e6 + 4_000)
        measured = {"stillhouse": ours, BEST.id: theirs}
        assert job_ratio(BEST, measured) == 0.25
        assert of_another_time(measured) == (
            "In no ratio, since they ran at another time than Stillhouse's job of that round: TextBrewer, at its best "
            "(rounds 1 and 3)."
        )

    def test_long_jobs_between_the_two_are_no_pause(self) -> None:
        ours, documented, theirs = (
            {1: make_cell(seconds=seconds, started_at=started_at)}
            for seconds, started_at in ((10.0, 0.0), (7_000.0, 20.0), (20.0, 7_030.0))
        )
        measured = {"stillhouse": ours, "trainer-documented": documented, BEST.id: theirs}
        assert job_ratio(BEST, measured) == 0.5
        assert of_another_time(measured) is None

    def test_is_not_told_where_there_is_no_such_round(self) -> None:
        measured = {"stillhouse": {1: make_cell()}, BEST.id: {1: make_cell(started_at=1e6)}}
        assert job_ratio(BEST, measured) is None
        # The accuracy of the same seed is the same at any time.
        assert system_row(BEST, measured).endswith("| 1.00 GB |  | +0.00 |")
        assert verdict("best", measured) == (
            "Peers at their best: only TextBrewer was measured, of another time, and to which Stillhouse differs by "
            "+0.00 points."
        )

    def test_the_fastest_and_the_most_accurate_are_of_more_than_one(self) -> None:
        measured = {
            "stillhouse": {1: make_cell(seconds=10.0)},
            "textbrewer-best": {1: make_cell(seconds=20.0, test_accuracy=0.5)},
            "trainer-best": {1: make_cell(seconds=40.0, test_accuracy=1.0)},
        }
        told = verdict("best", measured)
        assert told is not None
        assert "the fastest is TextBrewer, of whose time Stillhouse takes 0.50; the most accurate Trainer" in told


class Canned(Comparison):
    """Jobs that are measured by being noted down; of the peers one cannot be installed, and one crashes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.done: dict[tuple[str, int], Cell] = {}
        self.tried: list[tuple[str, int]] = []

    def has_environment(self, system: System) -> bool:
        return system.name != "torchdistill"

    def cell(self, system: System, number: int) -> Cell | None:
        if system.name == "torchdistill":
            raise subprocess.CalledProcessError(1, "pip")
        return self.done.get((system.id, number))

    def measure(self, system: System, number: int) -> Cell:
        self.tried.append((system.id, number))
        if system.id == "trainer-best":
            raise RuntimeError("with_trainer.py ended with status 1")
        rates = {when: {name: {"rate": 1e9} for name in ("bf16", "fp32")} for when in ("before", "after")}
        self.done[system.id, number] = make_cell(system=system.id, round=number, matmul=rates)
        return self.done[system.id, number]


class TestMain:
    @pytest.fixture
    def canned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canned:
        monkeypatch.setattr(comparing, "count_tokens", lambda *_: TokenCounts(rows=32, tokens=320, squared=3_200))
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        dataset = Dataset("sst2_sentences", Path("a"), 32, "", 2, {"train": 32}, "")
        canned = Canned(dataset, models, Hyperparameters(), "bf16", 2, tmp_path)
        monkeypatch.setattr(program, "prepare", lambda *_: [canned])
        return canned

    def test_a_peer_that_fails_is_left_out_and_the_others_are_told(
        self,
        canned: Canned,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Harm: a peer that cannot be installed today costs the figures of all the others."""
        page = tmp_path / "page.md"
        monkeypatch.setattr("sys.argv", ["bench.speed", "--rounds", "2", "--page", str(page)])
        assert program.main() == 1
        told = capsys.readouterr().err
        assert "round 1, sst2_sentences, torchdistill-best failed: Command 'pip' returned non-zero" in told
        assert "round 1, sst2_sentences, trainer-best failed: with_trainer.py ended with status 1" in told
        assert "round 2" not in told
        assert canned.tried.count(("trainer-best", 1)) == 1
        assert ("trainer-best", 2) not in canned.tried
        text = page.read_text()
        for name in ("Stillhouse", "TextBrewer, as documented", "Trainer with a KL loss, as documented"):
            assert f"| {name} | 2 |" in text
        assert "torchdistill, at its best" not in text

    def test_fewer_rounds_are_measured_and_all_that_are_there_are_told(
        self, canned: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: one round takes the place of the table of five."""
        page = tmp_path / "page.md"
        for rounds in ("3", "1"):
            given = ["--only", "stillhouse", "--rounds", rounds, "--page", str(page)]
            monkeypatch.setattr("sys.argv", ["bench.speed", *given])
            monkeypatch.setattr(Canned, "has_environment", lambda _, system: system.name == "stillhouse")
            assert program.main() == 0
        assert "| Stillhouse | 3 |" in page.read_text()
        assert len(canned.tried) == 3

    def test_no_minutes_are_no_time(
        self, canned: Canned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(Canned, "has_environment", lambda *_: False)
        monkeypatch.setattr("sys.argv", ["bench.speed", "--minutes", "0", "--rounds", "1"])
        monkeypatch.setattr(program, "PAGE", None)
        assert program.main() == 0
        assert canned.tried == []
        assert "The time is up" in capsys.readouterr().out


class TestSectionOf:
    @pytest.mark.parametrize(
        ("pair", "precision", "changes", "title", "command"),
        [
            ("minilm", "bf16", {}, "", ""),
            ("minilm", "bf16", {"rounds": 8}, ", 8 rounds", " ROUNDS=8"),
            ("mpnet", "fp32", {}, ": mpnet, in fp32", " PAIR=mpnet PRECISION=fp32"),
            ("minilm", "bf16", {"batch_size": 64}, ", batches of 64", " BATCH_SIZE=64"),
            ("minilm", "fp32", {"names": ["mrpc"]}, ", in fp32, on mrpc", " PRECISION=fp32 DATASET=mrpc"),
        ],
    )
    def test_that_make_another_table_are_in_the_name_of_its_section(
        self, pair: str, precision: str, changes: dict[str, object], title: str, command: str
    ) -> None:
        """Harm: a table overwrites another, or cannot be made again by the command that stands above it."""
        usual = {"batch_size": 32, "names": ["sst2_sentences", "clinc150", "qnli_10k"], "rounds": 5}
        found = program.section(pair, "cpu", precision, **usual | changes)  # type: ignore[arg-type]
        assert (found.title, found.command) == (f"{program.TITLE}{title}", f"bench-speed{command}")


class TestFlops:
    def test_count_of_two_layers_by_hand(self) -> None:
        shape = EncoderShape(layers=2, hidden=2, intermediate=8, labels=3)
        # Two rows of 3 and 5 tokens. The first layer: weights 4 x 2 x 2 + 2 x 2 x 8 = 48, for 8 tokens; attention
        # 12 x 2 x (9 + 25). The last one: keys and values, 8 of those 48, for 8 tokens, the other 40 for the first
        # token of each row; attention 12 x 2 x (3 + 5). Pooler and classifier 2 x 2 + 2 x 3 for each row.
        counts = TokenCounts(rows=2, tokens=8, squared=34)
        first = 6 * 48 * 8 + 12 * 2 * 34
        last = 6 * 8 * 8 + 6 * 40 * 2 + 12 * 2 * 8
        assert training_flops(shape, counts) == first + last + 6 * 10 * 2

    def test_each_layer_but_the_last_counts_in_full(self) -> None:
        counts = TokenCounts(rows=1, tokens=10, squared=100)
        one, two, four = (training_flops(EncoderShape(layers, 4, 16, 2), counts) for layers in (1, 2, 4))
        assert four - two == 2 * (two - one) > 6 * one

    def test_share_takes_the_faster_matmul_as_the_measure(self) -> None:
        rates = {"before": {"bf16": {"rate": 100.0}}, "after": {"bf16": {"rate": 200.0}}}
        # 20 operations in 0.2 s are 100 a second.
        assert useful_share(20.0, "bf16", make_cell(matmul=rates)) == pytest.approx(0.5)


class TestCellKey:
    def test_order_of_ingredients_is_of_no_consequence(self) -> None:
        assert cell_key({"seed": 1, "system": "a"}) == cell_key({"system": "a", "seed": 1})

    @pytest.mark.parametrize("change", [{"seed": 2}, {"source": "other"}, {"packages": {"torch": "3"}}])
    def test_each_ingredient_decides(self, change: dict[str, object]) -> None:
        ingredients = {"seed": 1, "source": "one", "packages": {"torch": "2"}}
        assert cell_key(ingredients) != cell_key(ingredients | change)

    def test_hash_of_files_sees_contents_and_names(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_text("a")
        two.write_text("b")
        before = hash_files([one, two])
        assert hash_files([two, one]) == before
        two.write_text("c")
        assert hash_files([one, two]) != before

    def test_a_saved_cell_comes_back_under_its_key_only(self, tmp_path: Path) -> None:
        results, cell = Results(tmp_path, Cell), make_cell()
        results.save("key", cell, {"seed": 1})
        assert results.load("key") == cell
        assert results.load("other") is None


class TestChosenSystems:
    def test_a_bare_name_means_all_settings(self) -> None:
        assert [system.id for system in chosen_systems("trainer,stillhouse")] == [
            "stillhouse",
            "trainer-documented",
            "trainer-best",
        ]

    def test_an_id_means_itself(self) -> None:
        assert [system.id for system in chosen_systems("textbrewer-best")] == ["textbrewer-best"]

    def test_none_means_all(self) -> None:
        assert chosen_systems(None) == SYSTEMS

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(SystemExit, match="nobody is not known"):
            chosen_systems("nobody")


class TestEngineEvents:
    def test_phases_add_up_to_the_job(self) -> None:
        events = [
            event("phase", 2, phase="preparing"),
            event("phase", 5, phase="training"),
            event("phase", 15, phase="evaluating"),
            event("succeeded", 18),
        ]
        seconds = phase_seconds(events, Measured(seconds=20.0, peak_rss_bytes=0, started_at=0.0))
        assert seconds == {"start": 2.0, "load": 3.0, "training": 10.0, "evaluation": 3.0, "exit": 2.0}
        assert set(seconds) - {"start", "exit"} <= set(PHASES.values())

    def test_steps_leave_validation_out(self) -> None:
        events = [
            loss(10, second=1),
            loss(20, second=2),
            loss(30, second=4),
            event("round", 9, arm="student"),
            loss(40, second=100),
            loss(50, second=103),
        ]
        steps = student_steps(events)
        # Windows of 10 steps: 1 s, 2 s and 3 s; none from step 30 to step 40, between which the student was validated.
        assert (steps.median, steps.mean, steps.count) == (pytest.approx(0.2), pytest.approx(0.2), 50)


class TestSection:
    def test_replaces_what_is_between_its_markers_and_nothing_else(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("# Benchmarks\n\nabove\n\n<!-- bench-x: begin -->\nold\n<!-- bench-x: end -->\n\nbelow\n")
        write_section(Section("X", "bench-x"), "new", page)
        assert page.read_text() == (
            "# Benchmarks\n\nabove\n\n<!-- bench-x: begin -->\nnew\n<!-- bench-x: end -->\n\nbelow\n"
        )

    def test_is_added_where_the_page_has_none(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        write_section(Section("X", "bench-x"), "new", page)
        assert "## X\n\n`make bench-x` measures and writes this section.\n\n<!-- bench-x: begin -->\nnew\n" in (
            page.read_text()
        )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="transformers.Trainer needs accelerate")
class TestQuickRun:
    def test_measures_everything_and_writes_the_report(self, tmp_path: Path) -> None:
        text = run_quick("bench.speed", tmp_path / "page.md")
        for part in (
            "<!-- bench-speed: begin -->",
            "| Stillhouse | 1 |",
            "| Trainer with a KL loss, as documented | 1 |",
            "| Trainer with a KL loss, at its best | 1 |",
            "Peers as documented: only Trainer with a KL loss was measured, of whose time Stillhouse takes",
            "Peers at their best: only Trainer with a KL loss was measured, of whose time Stillhouse takes",
            "| tiny | fp32 |",
            "<!-- bench-speed: end -->",
        ):
            assert part in text
        assert "nan" not in text


def event(kind: str, second: int, **payload: object) -> dict[str, object]:
    return {"type": kind, "time": f"1970-01-01T00:{second // 60:02}:{second % 60:02}+00:00", **payload}


def loss(step: int, *, second: int) -> dict[str, object]:
    return event("metric", second, series="student/train_loss", step=step, value=1.0)
