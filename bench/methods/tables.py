"""The report: what docs/methods.md shows of quality and of cost."""

import math
import statistics
from collections.abc import Callable, Mapping

from app.schemas.methods.sage import Sage
from bench.figures import SEEDS_AT_LEAST, Difference, mean_interval, paired_difference
from bench.methods.measure import Outcome
from bench.methods.plan import EPOCHS, KD, Recipe
from bench.report import cells
from bench.setting import made_by

# By dataset, recipe and seed.
Cells = Mapping[str, Mapping[Recipe, Mapping[int, Outcome]]]
PLAIN = Recipe((KD,))


def introduction(pair: str, rows: str, seeds: int, precision: str, machine: str) -> str:
    return (
        f"{pair}; the teacher is tuned once for the dataset, on all its rows, and the student learns from {rows}. "
        f"Every recipe presents the same number of rows to the student, {EPOCHS:g} epochs of them, with the job spec's "
        f"defaults (`sage` with {made_by(Sage())}): those of `sage` and of `opdf` were chosen on validation rows of "
        "these datasets, the others' were not tuned. Validation after each round chooses the student; the test split "
        "is read once, at the end. Means over the seeds, and in brackets the difference to plain distillation, paired "
        f"by seed, in points; from {SEEDS_AT_LEAST} seeds on with a 95 % interval (Student's t). {seeds} seeds "
        f"where no other number is told, computed in {precision} on {machine}."
    )


def report(found: Cells, head: str) -> list[str]:
    quality = [head, "", "### Quality", "", *_quality(found), "", *_verdict(found)]
    return [*quality, "", "### Cost", "", *_cost(found)] if _is_timed(found) else quality


def _quality(found: Cells) -> list[str]:
    names = list(found)
    teachers = {name: next(iter(next(iter(found[name].values())).values())).teacher_accuracy for name in names}
    most = max(len(seeds) for measured in found.values() for seeds in measured.values())
    lines = []
    for head, of in (
        (cells("accuracy", *(f"{name} (teacher {100 * teachers[name]:.2f} %)" for name in names)), _accuracy),
        (cells("agreement with the teacher", *names), _agreement),
    ):
        lines += ["", head, "|---" + "|---:" * len(names) + "|"]
        for recipe in _recipes(found):
            lines.append(cells(recipe.name, *(_figure(found[name], recipe, of, most) for name in names)))
    return lines[1:]


def _cost(found: Cells) -> list[str]:
    lines = [
        "The job's time, its teacher's pass left out, and its memory at the most, over those of plain distillation on "
        "the same dataset: of each the least over the seeds that both have, since what else a machine does only adds; "
        "the median over datasets.",
        "",
        cells("", "time", "memory"),
        "|---|---:|---:|",
    ]
    for recipe in _recipes(found):
        time = _over_plain(found, recipe, lambda outcome: outcome.seconds or math.nan)
        memory = _over_plain(found, recipe, lambda outcome: outcome.peak_bytes)
        lines.append(cells(recipe.name, f"{time:.2f}", f"{memory:.2f}"))
    return lines


def _verdict(found: Cells) -> list[str]:
    """Which recipes are above plain distillation, and which below, with an interval that leaves zero out."""
    sides: dict[str, list[str]] = {"above": [], "below": []}
    for recipe in _recipes(found):
        for name, measured in found.items():
            gain = _gain(measured, recipe, _accuracy)
            if gain is not None and gain.pairs >= SEEDS_AT_LEAST and abs(gain.mean) > gain.half_width:
                sides["above" if gain.mean > 0 else "below"].append(f"{recipe.name} on {name}")
    return [
        f"In accuracy {side} plain distillation, the interval of three seeds or more leaving zero out: "
        f"{', '.join(names) or 'none'}."
        for side, names in sides.items()
    ]


BySeed = Mapping[Recipe, Mapping[int, Outcome]]


def _figure(measured: BySeed, recipe: Recipe, of: Callable[[Outcome], float], most: int) -> str:
    """The recipe's mean, how it differs from plain distillation, and of how many seeds where they are not `most`."""
    if recipe not in measured:
        return ""
    own = measured[recipe]
    mean, half_width = mean_interval([of(outcome) for outcome in own.values()])
    beside = [text for text in (_points(_gain(measured, recipe, of)), _fewer(len(own), most)) if text]
    return f"{100 * mean:.2f}{_spread(half_width, len(own))} %" + (f" ({'; '.join(beside)})" if beside else "")


def _gain(measured: BySeed, recipe: Recipe, of: Callable[[Outcome], float]) -> Difference | None:
    if recipe == PLAIN or recipe not in measured or PLAIN not in measured:
        return None
    ours, plain = ({seed: of(outcome) for seed, outcome in measured[which].items()} for which in (recipe, PLAIN))
    return paired_difference(ours, plain)


def _points(gain: Difference | None) -> str:
    return "" if gain is None else f"{100 * gain.mean:+.2f}{_spread(gain.half_width, gain.pairs)}"


def _spread(half_width: float, seeds: int) -> str:
    return f" ± {100 * half_width:.2f}" if seeds >= SEEDS_AT_LEAST else ""


def _fewer(seeds: int, most: int) -> str:
    return "" if seeds == most else f"{seeds} seed{'s' if seeds > 1 else ''}"


def _accuracy(outcome: Outcome) -> float:
    return outcome.accuracy


def _agreement(outcome: Outcome) -> float:
    return outcome.agreement


def _is_timed(found: Cells) -> bool:
    return all(
        outcome.seconds is not None
        for measured in found.values()
        for by_seed in measured.values()
        for outcome in by_seed.values()
    )


def _recipes(found: Cells) -> list[Recipe]:
    """All that any dataset has, in the order of the first one that has them."""
    return list(dict.fromkeys(recipe for measured in found.values() for recipe in measured))


def _over_plain(found: Cells, recipe: Recipe, cost: Callable[[Outcome], float]) -> float:
    ratios = []
    for measured in found.values():
        own, plain = measured.get(recipe, {}), measured.get(PLAIN, {})
        # The least of more seeds is less.
        if both := own.keys() & plain.keys():
            ratios.append(min(cost(own[seed]) for seed in both) / min(cost(plain[seed]) for seed in both))
    return statistics.median(ratios) if ratios else math.nan
