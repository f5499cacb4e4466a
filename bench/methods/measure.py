"""One cell: an engine job by one recipe."""

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from bench import engine, machine
from bench.datasets import Dataset
from bench.methods.plan import EPOCHS, Plan
from bench.results import cell_key
from bench.setting import METHODS_VERSION, Setting
from worker.distill.cache_keys import CODE_VERSION
from worker.distill.methods.registry import revisions
from worker.distill.networks import PACKED


@dataclass(frozen=True)
class Outcome:
    """What a recipe's student is worth on the split that is reported, and what the job took."""

    accuracy: float
    loss: float
    calibration_error: float
    agreement: float
    teacher_accuracy: float
    seconds: float | None  # of the job, its teacher's pass over the training rows left out; None beside other cells
    peak_bytes: int  # of the engine and its children, at one moment
    load_before: float


def find(plan: Plan, dataset: Dataset, setting: Setting) -> Outcome | None:
    """The cell, if it has been measured."""
    found = setting.results.load(cell_key(_ingredients(plan, dataset, setting)))
    return None if found is None else Outcome(**found)


def measure(plan: Plan, dataset: Dataset, setting: Setting) -> Outcome:
    """Run the job and keep what came of it."""
    ingredients = _ingredients(plan, dataset, setting)
    key = cell_key(ingredients)
    work = setting.cache / "work" / f"methods-{key}"
    main, *others = plan.recipe.parameters(setting.hyper)
    setting.write_run(work, dataset, main, others, epochs=EPOCHS, seed=plan.seed)
    load = machine.load_average()
    measured, events = engine.run(work, with_children=True, device=setting.device)
    result = events[-1]["result"]
    student, teacher = (result[model]["test"] or result[model]["validation"] for model in ("student", "teacher"))
    outcome = Outcome(
        accuracy=student["accuracy"],
        loss=student["loss"],
        calibration_error=student["calibration_error"],
        agreement=result["student"]["agreement"],
        teacher_accuracy=teacher["accuracy"],
        seconds=measured.seconds - result["seconds_by_part"]["teacher_outputs"] if setting.at_once == 1 else None,
        peak_bytes=measured.peak_total_bytes,
        load_before=load,
    )
    setting.results.save(key, asdict(outcome), ingredients)
    shutil.rmtree(work)
    return outcome


def _ingredients(plan: Plan, dataset: Dataset, setting: Setting) -> dict[str, Any]:
    methods = plan.recipe.parameters(setting.hyper)
    revised = revisions(method["type"] for method in methods)
    return {
        "bench": "methods",
        "plan": {"dataset": plan.dataset, "rows": plan.rows, "seed": plan.seed, "epochs": EPOCHS},
        "methods": methods,
        "version": f"{METHODS_VERSION}-{CODE_VERSION}-{PACKED}",
        # Only where there is one to tell, so that the others' cells keep their keys.
        **({"revisions": revised} if revised else {}),
        **setting.ingredients(dataset),
    }
