"""The report: what docs/methods.md shows of quality and of cost."""

import math
import statistics
from collections.abc import Mapping

from bench.figures import Difference, mean_interval, median_ratio, paired_difference
from bench.methods.measure import Outcome
from bench.methods.plan import EPOCHS, KD, Recipe
from bench.report import cells

# By dataset, recipe and seed.
Cells = Mapping[str, Mapping[Recipe, Mapping[int, Outcome]]]
PLAIN = Recipe((KD,))
# A job's own two threads, and what the job before it left in the average.
_QUIET = 2.3


def introduction(pair: str, rows: str, machine: str) -> str:
    return (
        f"{pair}; the teacher is tuned once for the dataset, on all its rows, and the student learns from {rows}. "
        f"Every recipe presents the same number of rows to the student, {EPOCHS:g} epochs of them, with the job spec's "
        "defaults: nothing was tuned for any. Validation after each round chooses the student; the test split is read "
        "once, at the end. Means over the seeds with a 95 % interval (Student's t), and the difference to plain "
        f"distillation, paired by seed, in points. {machine}."
    )


def report(found: Cells, head: str) -> list[str]:
    return [head, "", "### Quality", "", *_quality(found), "", *_verdict(found), "", "### Cost", "", *_cost(found)]


def _quality(found: Cells) -> list[str]:
    names = list(found)
    teachers = {name: next(iter(next(iter(found[name].values())).values())).teacher_accuracy for name in names}
    head = cells("accuracy", *(f"{name} (teacher {100 * teachers[name]:.2f} %)" for name in names))
    lines = [head, "|---" + "|---:" * len(names) + "|"]
    for recipe in _recipes(found):
        lines.append(cells(recipe.name, *(_accuracy(found[name], recipe) for name in names)))
    lines += ["", cells("agreement with the teacher", *names), "|---" + "|---:" * len(names) + "|"]
    for recipe in _recipes(found):
        lines.append(cells(recipe.name, *(_agreement(found[name], recipe) for name in names)))
    return lines


def _cost(found: Cells) -> list[str]:
    lines = [
        "The job's time, its teacher's pass left out, and its memory at the most, over those of plain distillation "
        "with the same dataset and seed: the median over datasets and seeds, of the jobs before which the machine was "
        f"not busier than one job makes it (load average at most {_QUIET}).",
        "",
        cells("", "time", "memory", "jobs"),
        "|---|---:|---:|---:|",
    ]
    for recipe in _recipes(found):
        ours, plain = _by_job(found, recipe), _by_job(found, PLAIN)
        time = median_ratio(
            {job: outcome.seconds for job, outcome in ours.items()},
            {job: outcome.seconds for job, outcome in plain.items()},
        )
        memory = median_ratio(
            {job: outcome.peak_bytes for job, outcome in ours.items()},
            {job: outcome.peak_bytes for job, outcome in plain.items()},
        )
        lines.append(cells(recipe.name, _ratio(time), _ratio(memory), str(len(ours))))
    return lines


def _verdict(found: Cells) -> list[str]:
    """Which recipes are above plain distillation, and which below, with an interval that leaves zero out."""
    sides: dict[str, list[str]] = {"above": [], "below": []}
    for recipe in _recipes(found):
        for name, measured in found.items():
            gain = _gain(measured, recipe)
            if gain is not None and abs(gain.mean) > gain.half_width:
                sides["above" if gain.mean > 0 else "below"].append(f"{recipe.name} on {name}")
    return [
        f"In accuracy {side} plain distillation, the interval leaving zero out: {', '.join(names) or 'none'}."
        for side, names in sides.items()
    ]


def _accuracy(measured: Mapping[Recipe, Mapping[int, Outcome]], recipe: Recipe) -> str:
    if recipe not in measured:
        return ""
    mean, half_width = mean_interval([outcome.accuracy for outcome in measured[recipe].values()])
    spread = f" ± {100 * half_width:.2f}" if math.isfinite(half_width) else ""
    return f"{100 * mean:.2f}{spread} %{_points(_gain(measured, recipe)) if recipe != PLAIN else ''}"


def _agreement(measured: Mapping[Recipe, Mapping[int, Outcome]], recipe: Recipe) -> str:
    if recipe not in measured:
        return ""
    return f"{100 * statistics.fmean(outcome.agreement for outcome in measured[recipe].values()):.2f} %"


def _gain(measured: Mapping[Recipe, Mapping[int, Outcome]], recipe: Recipe) -> Difference | None:
    if recipe == PLAIN or recipe not in measured or PLAIN not in measured:
        return None
    ours, plain = ({seed: outcome.accuracy for seed, outcome in measured[which].items()} for which in (recipe, PLAIN))
    return paired_difference(ours, plain)


def _points(gain: Difference | None) -> str:
    if gain is None:
        return ""
    spread = f" ± {100 * gain.half_width:.2f}" if math.isfinite(gain.half_width) else ""
    return f" ({100 * gain.mean:+.2f}{spread})"


def _recipes(found: Cells) -> list[Recipe]:
    """All that any dataset has, in the order of the first one that has them."""
    return list(dict.fromkeys(recipe for measured in found.values() for recipe in measured))


def _by_job(found: Cells, recipe: Recipe) -> dict[tuple[str, int], Outcome]:
    """By dataset and seed, of the quiet jobs."""
    return {
        (name, seed): outcome
        for name, measured in found.items()
        for seed, outcome in measured.get(recipe, {}).items()
        if outcome.load_before <= _QUIET
    }


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
