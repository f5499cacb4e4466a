"""How far a run says that it is: by what its parts are known to cost, the models' answers before a round included."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.distill.tiny_runs import METHODS, events_of, make_run
from worker.distill.errors import Stopped
from worker.distill.events import EventLog
from worker.distill.loop import distil
from worker.distill.progress import Progress

# With test_runs: most of these runs stand on the same map.
pytestmark = pytest.mark.xdist_group("engine_runs")

Runner = Callable[[Path], Path]
# Ten full batches in each round, so that every step is worth the same.
EVEN: dict[str, Any] = {"training__batch_size": 15, "train_rows": 150, "training__epochs": 3.0}


@pytest.fixture(autouse=True)
def _reports_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.distill.progress._REPORT_EVERY_SECONDS", 0.0)


def shares_of(folder: Path) -> list[float]:
    """Of the newest process at work in `folder`."""
    events = events_of(folder, "phase", "progress")
    newest = max(i for i, event in enumerate(events) if event["type"] == "phase" and event["phase"] == "preparing")
    return [event["progress"] for event in events[newest:] if event["type"] == "progress"]


def shares_of_rounds(folder: Path) -> list[list[float]]:
    """Of each round of the student, in their order: the shares from its beginning, with what it asks, to its last
    step."""
    rounds: dict[int, list[float]] = {}
    for event in events_of(folder, "progress"):
        if event["phase"] == "training":
            rounds.setdefault(event["round"], []).append(event["progress"])
    return [rounds[number] for number in sorted(rounds)]


class TestProgress:
    def test_what_takes_more_than_planned_takes_nothing_from_the_rest(self, tmp_path: Path) -> None:
        """Harm: a bar that falls when the part that was planned too low is over."""
        progress = Progress(EventLog(tmp_path / "events.jsonl"))
        progress.enter("preparing")
        for part in ("one", "other"):
            progress.plan(part, 10.0)
        progress.advance("one", 15.0)
        progress.complete("one")
        progress.enter("training")
        progress.advance("other", 5.0)
        progress.advance("other", 5.0)
        assert shares_of(tmp_path) == [0.6, 0.6, 0.8, 1.0]


class TestWholeRuns:
    @pytest.mark.parametrize("method", ["sage", "oversample"])
    def test_a_step_brings_as_much_in_the_last_round_as_in_the_first(
        self, method: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: a bar that runs ahead while the models are asked, and then creeps; a time left that is not true."""
        folder = make_run(tmp_path / "run", method, **EVEN)
        run_engine(folder)
        steps = [shares[-1] - shares[-2] for shares in shares_of_rounds(folder)]
        assert len(steps) == 3
        assert steps == pytest.approx([steps[0]] * 3)
        # Harm: a client that divides the one by the other, in a phase that has no rounds.
        rounds = {(event["round"], event["rounds"]) for event in events_of(folder, "phase")}
        assert rounds == {(None, None), (1, 3), (2, 3), (3, 3)}

    def test_what_the_models_are_asked_before_a_round_belongs_to_it(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: minutes of labelling that are said to be UMAP's, or the round's before."""
        folder = make_run(tmp_path / "run", "sage", **EVEN | {"train_rows": 165})  # which nobody has a map of
        run_engine(folder)
        phases = [(event["phase"], event["round"]) for event in events_of(folder, "phase")]
        map_at = phases.index(("projection", None))
        assert phases[map_at - 1 :] == [
            *(("training", 2), ("projection", None), ("training", 2), ("training", 3)),
            *(("evaluating", None), ("exporting", None)),
        ]

    def test_it_advances_while_the_models_are_asked(self, tmp_path: Path, run_engine: Runner) -> None:
        """Harm: minutes of labelling in which a job looks stuck."""
        folder = make_run(tmp_path / "run", "sage", **EVEN)
        run_engine(folder)
        warm_up, *guided = shares_of_rounds(folder)
        step = warm_up[-1] - warm_up[-2]
        assert warm_up[-1] - warm_up[0] == pytest.approx(10 * step)
        assert len(guided) == 2
        for shares in guided:
            # 100 scores and 100 candidates, answered by both, cost more than two steps of 15 rows.
            assert shares[-1] - shares[0] > 12 * step

    def test_rises_to_the_end_where_rounds_are_left_out(self, tmp_path: Path, run_engine: Runner) -> None:
        stubborn = {"method__rounds": 8, "method__early_stopping": True, "training__learning_rate": 1e-9}
        baselines = [METHODS["random_anchors"], METHODS["pruned"]]
        folder = make_run(tmp_path / "run", "sage", baselines=baselines, training__epochs=6.0, **stubborn)
        run_engine(folder)
        assert any(event.get("stopped_early") for event in events_of(folder, "round"))
        shares = shares_of(folder)
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)


class TestResume:
    @pytest.mark.parametrize("is_cache_lost", [False, True])
    def test_a_run_that_tuned_its_teacher_keeps_what_that_was_worth(
        self, is_cache_lost: bool, tmp_path: Path, run_engine: Runner
    ) -> None:
        """Harm: from a half the bar falls to a tenth, because the new process neither tunes nor asks the teacher."""
        folder = make_run(tmp_path / "run", "kd", tuned=True, **EVEN)

        def is_time() -> bool:
            return any(event["phase"] == "training" and event["round"] == 2 for event in events_of(folder, "phase"))

        events = EventLog(folder / "events.jsonl")
        with pytest.raises(Stopped):
            distil(folder, events, is_time)
        events.close()
        before = shares_of(folder)[-1]
        if is_cache_lost:
            shutil.rmtree(folder / "cache")
        run_engine(folder)
        resumed = shares_of(folder)
        assert resumed[-1] == pytest.approx(1.0)
        if is_cache_lost:
            assert resumed[0] < before  # it tunes again, and says so
        else:
            assert resumed[0] == pytest.approx(before)
            assert resumed == sorted(resumed)

    @pytest.mark.parametrize("moment", ["between two rounds", "within a round"])
    def test_a_run_that_goes_on_is_as_far_as_one_that_was_never_stopped(
        self, moment: str, tmp_path: Path, run_engine: Runner
    ) -> None:
        run_engine(make_run(tmp_path / "first", "sage", **EVEN))
        undisturbed, stopped = (make_run(tmp_path / name, "sage", **EVEN) for name in ("undisturbed", "stopped"))
        for folder in (undisturbed, stopped):  # neither has anything to ask the teacher before it trains
            shutil.copytree(tmp_path / "first/cache", folder / "cache")
        run_engine(undisturbed)

        def reports_of_round_2(folder: Path) -> int:
            return sum(event["round"] == 2 for event in events_of(folder, "progress"))

        def is_time() -> bool:
            if moment == "between two rounds":
                return len(events_of(stopped, "round")) == 2
            # It asks in some batches, and takes 10 steps.
            return reports_of_round_2(stopped) >= reports_of_round_2(undisturbed) - 5

        events = EventLog(stopped / "events.jsonl")
        with pytest.raises(Stopped):
            distil(stopped, events, is_time)
        events.close()
        run_engine(stopped)
        whole, resumed = shares_of_rounds(undisturbed), shares_of_rounds(stopped)
        assert len(resumed) == 3
        assert (len(resumed[1]) > len(whole[1])) == (moment == "within a round")
        assert resumed[-1] == pytest.approx(whole[-1])
        shares = shares_of(stopped)
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)
