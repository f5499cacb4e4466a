"""The report: what docs/benchmarks.md shows."""

import math
import statistics
from collections.abc import Callable, Mapping

from bench.figures import Difference, mean_interval, paired_difference
from bench.quality.measure import Outcome
from bench.quality.plan import ARMS, CONTROLS, EPOCHS, KD, SAGE, SAGE_ON_LESS, TITLES, size_name
from bench.report import cells

# By seed, then by arm.
Cells = Mapping[int, Mapping[str, Outcome]]
Value = Callable[[Outcome], float]


def report(found: list[tuple[str, int | None, Cells]], introduction: str, *, on_validation: bool = False) -> list[str]:
    """The whole section; `found` has dataset, rows (None: all) and cells of each table that has any."""

    def accuracy(outcome: Outcome) -> float:
        return (outcome.validation if on_validation else outcome.test)["accuracy"]

    lines = [introduction]
    for dataset, rows, measured in found:
        lines += ["", f"### {dataset}, {size_name(rows)}", "", *_table(measured, accuracy)]
    return [*lines, "", *_verdicts(found, accuracy)]


def introduction(pair: str, machine: str) -> str:
    return (
        f"{pair}; the teacher is tuned once for the dataset, on all its rows. Every method presents the same number of "
        f"rows to the student: {EPOCHS:g} epochs of the training rows, real and synthetic together, no early stop, the "
        "job spec's defaults otherwise. Validation after each round chooses the student; the test split is read once, "
        "at the end. Means over the seeds with a 95 % interval (Student's t); differences are paired by seed. "
        "Agreement is with the teacher; ECE is the expected calibration error in 15 bins; seconds are those of the "
        f"training, the synthesis included and the teacher's pass left out. {machine}."
    )


def _table(measured: Cells, accuracy: Value) -> list[str]:
    teacher = statistics.fmean(accuracy(cell["teacher"]) for cell in measured.values())
    return [
        f"Teacher: {100 * teacher:.2f} %. Seeds: {', '.join(str(seed) for seed in sorted(measured))}.",
        "",
        "| | accuracy | less plain KD, points | SAGE less it, points | retention | agreement | less plain KD, points | "
        "ECE | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(arm, measured, accuracy) for arm in (*ARMS, SAGE_ON_LESS)),
    ]


def _row(arm: str, measured: Cells, accuracy: Value) -> str:
    own = _values(measured, arm)
    calibration = statistics.fmean(outcome.test["calibration_error"] for outcome in own.values())
    return cells(
        TITLES[arm],
        _percent(mean_interval([accuracy(outcome) for outcome in own.values()])),
        "" if arm == KD else _points(difference(measured, arm, KD, accuracy)),
        "" if arm in (SAGE, SAGE_ON_LESS) else _points(difference(measured, SAGE, arm, accuracy)),
        f"{100 * statistics.fmean(outcome.retention for outcome in own.values()):.1f} %",
        _percent(mean_interval([outcome.agreement for outcome in own.values()])),
        "" if arm == KD else _points(difference(measured, arm, KD, _agreement)),
        f"{calibration:.3f}",
        f"{statistics.median(outcome.seconds for outcome in own.values()):.0f}",
    )


def _verdicts(found: list[tuple[str, int | None, Cells]], accuracy: Value) -> list[str]:
    """The goals, each with what speaks for and against it."""
    lines = []
    for kind, rows, values in (
        ("accuracy, all rows", None, [accuracy]),
        ("agreement, all rows", None, [_agreement]),
        ("accuracy and agreement, 2,000 rows", 2_000, [accuracy, _agreement]),
    ):
        tables = [(dataset, measured) for dataset, size, measured in found if size == rows]
        if not tables:
            continue
        above = [name for name, measured in tables if all(is_above(measured, SAGE, KD, value) for value in values)]
        below = [name for name, measured in tables if any(is_above(measured, KD, SAGE, value) for value in values)]
        control = [
            name
            for name, measured in tables
            if all(is_above(measured, SAGE, other, value) for other in CONTROLS for value in values)
        ]
        lines.append(
            f"- {kind}: SAGE above plain KD (interval above zero) on {_names(above, tables)}; below it on "
            f"{_names(below, tables)}; above both controls on {_names(control, tables)}."
        )
    reached = []
    for dataset, rows, measured in found:
        less = difference(measured, SAGE_ON_LESS, KD, accuracy)
        if less is not None and less.mean >= 0:
            reached.append(f"{dataset} ({size_name(rows)}, {_points(less)} points)")
    lines.append(
        f"- {TITLES[SAGE_ON_LESS]} is in the mean at or above plain KD on the whole of it on {len(reached)} of "
        f"{len(found)}: {', '.join(reached) or 'none'}."
    )
    return lines


def is_above(measured: Cells, arm: str, other: str, value: Value) -> bool:
    """The interval of the paired difference lies above zero."""
    found = difference(measured, arm, other, value)
    return found is not None and found.mean - found.half_width > 0


def difference(measured: Cells, arm: str, other: str, value: Value) -> Difference | None:
    """`arm` less `other`, paired by seed."""
    ours, theirs = _values(measured, arm), _values(measured, other)
    return paired_difference(
        {seed: value(outcome) for seed, outcome in ours.items()},
        {seed: value(outcome) for seed, outcome in theirs.items()},
    )


def _values(measured: Cells, arm: str) -> dict[int, Outcome]:
    return {seed: cell[arm] for seed, cell in measured.items()}


def _agreement(outcome: Outcome) -> float:
    return outcome.agreement


def _names(chosen: list[str], tables: list[tuple[str, Cells]]) -> str:
    return f"{len(chosen)} of {len(tables)}" + (f" ({', '.join(chosen)})" if chosen else "")


def _percent(interval: tuple[float, float]) -> str:
    mean, half_width = interval
    return f"{100 * mean:.2f}" + (f" ± {100 * half_width:.2f} %" if math.isfinite(half_width) else " %")


def _points(found: Difference | None) -> str:
    if found is None:
        return ""
    spread = f" ± {100 * found.half_width:.2f}" if math.isfinite(found.half_width) else ""
    return f"{100 * found.mean:+.2f}{spread}"
