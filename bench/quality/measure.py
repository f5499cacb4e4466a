"""One cell: an engine job of its arms on the whole budget, and one of SAGE on less of it where that is among them."""

import itertools
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import engine
from bench.datasets import Dataset
from bench.quality.plan import LESS, SAGE, SAGE_ON_LESS, Plan, method
from bench.results import cell_key
from bench.setting import METHODS_VERSION, Setting
from worker.distill.cache import CODE_VERSION
from worker.distill.networks import PACKED


@dataclass(frozen=True)
class Outcome:
    """What one arm's student is worth, on the split that is reported and on validation."""

    test: dict[str, float]  # accuracy, macro_f1, loss, calibration_error
    validation: dict[str, float]
    retention: float
    agreement: float
    # Of its training, synthesis and validation included, the teacher's pass not; None beside other cells.
    seconds: float | None


def find(plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Outcome] | None:
    """The cell's outcomes by arm, if it has been measured; `teacher` among them."""
    found = setting.results.load(cell_key(_ingredients(plan, dataset, setting)))
    return None if found is None else {arm: Outcome(**outcome) for arm, outcome in found.items()}


def measure(plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Outcome]:
    """Run the cell's jobs and keep what came of them."""
    ingredients = _ingredients(plan, dataset, setting)
    key = cell_key(ingredients)
    work = setting.cache / "work" / f"quality-{key}"
    outcomes = _run(work / "whole", plan, dataset, setting, [arm for arm in plan.arms if arm != SAGE_ON_LESS], 1.0)
    if SAGE_ON_LESS in plan.arms:
        outcomes[SAGE_ON_LESS] = _run(work / "less", plan, dataset, setting, [SAGE], LESS)[SAGE]
    kept = {arm: asdict(outcome) for arm, outcome in outcomes.items()}
    setting.results.save(key, kept, ingredients)
    shutil.rmtree(work)
    return outcomes


def _run(
    folder: Path, plan: Plan, dataset: Dataset, setting: Setting, arms: list[str], budget: float
) -> dict[str, Outcome]:
    """One job: SAGE, or the last of the `arms` where it is not among them, and the others as its baselines."""
    hyper, changes = setting.hyper, dict(plan.changes)
    main = SAGE if SAGE in arms else arms[-1]
    others = [arm for arm in arms if arm != main]
    engine.write_run(
        folder,
        teacher=setting.models.teacher,
        teacher_sha256=setting.models.teacher_sha256,
        dataset=dataset,
        student_layers=setting.layers,
        training=hyper.training(epochs=plan.epochs * budget, precision=setting.precision, seed=plan.seed),
        method=method(main, hyper, changes, budget),
        # Changes are of SAGE; its controls follow where they have the same parameter.
        baselines=[method(arm, hyper, changes, budget) for arm in others],
        tuning=None,
        threads=setting.threads,
        # One for all cells: the teacher answers once, and one map serves all seeds.
        cache=setting.cache / "engine",
    )
    _, events = engine.run(folder, device=setting.device)
    result, seconds = events[-1]["result"], arm_seconds(events, main)
    is_alone = setting.at_once == 1
    outcomes = {
        arm: _outcome(
            result["student"] if arm == main else result["baselines"][arm], seconds[arm] if is_alone else None
        )
        for arm in (main, *others)
    }
    return outcomes | {"teacher": _outcome(result["teacher"], 0.0)}


def arm_seconds(events: list[dict[str, Any]], main: str) -> dict[str, float]:
    """Seconds of each arm: from the end of the one before it, or the begin of training, to its own last checkpoint;
    `main` is the name of the student's."""
    began = next(event["time"] for event in events if event["type"] == "phase" and event["phase"] == "training")
    ends: dict[str, str] = {}
    for event in events:
        if event["type"] == "checkpoint":
            ends[event["arm"].removeprefix("baseline.").replace("student", main)] = event["time"]
    times = [datetime.fromisoformat(time).timestamp() for time in (began, *ends.values())]
    return {arm: stop - start for arm, (start, stop) in zip(ends, itertools.pairwise(times), strict=True)}


def _outcome(numbers: dict[str, Any], seconds: float | None) -> Outcome:
    return Outcome(
        test=numbers["test"] or numbers["validation"],
        validation=numbers["validation"],
        retention=numbers["retention"],
        agreement=numbers["agreement"],
        seconds=seconds,
    )


def _ingredients(plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Any]:
    sized = {"dataset": plan.dataset, "rows": plan.rows, "seed": plan.seed, "changes": plan.changes}
    return {
        "bench": "quality",
        "plan": {**sized, "epochs": plan.epochs, "less": LESS if SAGE_ON_LESS in plan.arms else None},
        # The methods as they stand, so that a new default is another cell.
        "methods": [method(arm, setting.hyper, dict(plan.changes)) for arm in plan.arms if arm != SAGE_ON_LESS],
        "version": f"{METHODS_VERSION}-{CODE_VERSION}-{PACKED}",
        **setting.ingredients(dataset),
    }
