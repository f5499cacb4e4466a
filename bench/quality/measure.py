"""One cell: an engine job for each of its arms."""

import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bench import engine, machine
from bench.datasets import Dataset
from bench.quality.plan import TEACHER, Plan, budget_of, method
from bench.results import cell_key
from bench.setting import METHODS_VERSION, Setting
from worker.distill.cache_keys import CODE_VERSION
from worker.distill.methods.registry import revisions
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
    """The cell's outcomes by arm, if all of its arms have been measured; `teacher` among them."""
    outcomes = _kept(plan, dataset, setting)
    return outcomes if {*plan.arms} <= outcomes.keys() else None


def measure(plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Outcome]:
    """Run a job for each arm that is not there yet, and keep what came of it.

    Arms are kept by themselves, so a new default of SAGE leaves its controls as they are, and arms may be added later.
    """
    outcomes = _kept(plan, dataset, setting)
    for arm in plan.arms:
        if arm not in outcomes:
            outcomes |= _run(arm, plan, dataset, setting)
    return outcomes


def _kept(plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Outcome]:
    """Of the plan's arms those that have been measured."""
    outcomes: dict[str, Outcome] = {}
    for arm in plan.arms:
        found = setting.results.load(cell_key(_ingredients(arm, plan, dataset, setting)))
        outcomes |= {name: Outcome(**outcome) for name, outcome in (found or {}).items()}
    return outcomes


def _run(arm: str, plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Outcome]:
    """The arm's student and its teacher, measured and kept."""
    ingredients = _ingredients(arm, plan, dataset, setting)
    key = cell_key(ingredients)
    work = setting.cache / "work" / f"quality-{key}"
    own = method(arm, setting.hyper, dict(plan.changes))
    setting.write_run(work, dataset, own, epochs=plan.epochs * budget_of(arm), seed=plan.seed)
    load = machine.load_average()
    measured, events = engine.run(work, device=setting.device)
    result = events[-1]["result"]
    seconds = training_seconds(events) if setting.at_once == 1 else None
    outcomes = {arm: _outcome(result["student"], seconds), TEACHER: _outcome(result["teacher"], 0.0)}
    setting.results.save(
        key,
        {name: asdict(outcome) for name, outcome in outcomes.items()},
        ingredients,
        {"started_at": measured.started_at, "load_before": load},
    )
    shutil.rmtree(work)
    return outcomes


def training_seconds(events: list[dict[str, Any]]) -> float:
    """From the begin of training to the student's last checkpoint."""
    began = next(event["time"] for event in events if event["type"] == "phase" and event["phase"] == "training")
    (*_, ended) = (event["time"] for event in events if event["type"] == "checkpoint" and event["arm"] == "student")
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def _outcome(numbers: dict[str, Any], seconds: float | None) -> Outcome:
    return Outcome(
        test=numbers["test"] or numbers["validation"],
        validation=numbers["validation"],
        retention=numbers["retention"],
        agreement=numbers["agreement"],
        seconds=seconds,
    )


def _ingredients(arm: str, plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Any]:
    sized = {"dataset": plan.dataset, "rows": plan.rows, "seed": plan.seed}
    own = method(arm, setting.hyper, dict(plan.changes))
    revised = revisions([own["type"]])
    return {
        "bench": "quality",
        "plan": {**sized, "epochs": plan.epochs * budget_of(arm)},
        # The method as it stands, changes included, so that a new default is another cell.
        "method": own,
        "version": f"{METHODS_VERSION}-{CODE_VERSION}-{PACKED}",
        # Only where there is one to tell, so that the others' cells keep their keys.
        **({"revisions": revised} if revised else {}),
        **setting.ingredients(dataset),
    }
