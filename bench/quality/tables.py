"""The report: what docs/benchmarks.md shows."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping

from app.schemas.methods.sage import Sage
from bench.figures import SEEDS_AT_LEAST, Difference, mean_interval, paired_difference
from bench.quality.measure import Outcome
from bench.quality.plan import ARMS, CONTROLS, KD, PAPER_RETENTION, SAGE, SAGE_ON_LESS, TEACHER, TITLES
from bench.report import cells
from bench.setting import made_by, size_name

# By seed, then by arm.
Cells = Mapping[int, Mapping[str, Outcome]]
Value = Callable[[Outcome], float]


def report(
    found: list[tuple[str, int | None, Cells]],
    introduction: str,
    *,
    is_trial: bool = False,
    at_papers_size: bool = False,
) -> list[str]:
    """The whole section; `found` has dataset, rows (None: all) and cells of each table that has any.

    A trial is told by fewer figures, and without a verdict.
    """
    table = _trial_table if is_trial else _table
    lines = [introduction]
    for dataset, rows, measured in found:
        lines += ["", f"### {dataset}, {size_name(rows)}", "", *table(measured)]
    if is_trial:
        return lines
    return [*lines, "", *(_beside_the_paper(found) if at_papers_size else _verdicts(found))]


def introduction(
    pair: str,
    epochs: float,
    arms: Collection[str],
    sage: Sage,
    precision: str,
    machine: str,
    *,
    are_timed: bool,
    is_trial: bool = False,
) -> str:
    """What the tables of these `arms` have in common; `sage` has the parameters that matter most to its rows."""
    defaults = made_by(sage) if SAGE in arms else f"`lift: {sage.lift}`"
    seconds = "seconds are those of the training, the synthesis included and the teacher's pass left out"
    if not are_timed:
        seconds = "cells were measured beside each other, so there are no times"
    seen, read = "on all its rows", "the test split is read once, at the end"
    figures = (
        "Retention is of the teacher's accuracy; agreement is with the teacher; ECE is the expected calibration error "
        f"in 15 bins; {seconds}"
    )
    if is_trial:
        seen = "on its training rows less some that are held out"
        read = "the rows held out, which neither teacher nor student has seen, stand for the test split"
        figures = "Agreement is with the teacher"
    return (
        f"{pair}; the teacher is tuned once for the dataset, {seen}. Every method presents the same number of rows to "
        f"the student: {epochs:g} epochs of the training rows, real and synthetic together, no early stop, the job "
        f"spec's defaults otherwise ({defaults}). Validation after each round chooses the student; {read}. Means over "
        f"the seeds with a 95 % interval (Student's t); differences are paired by seed. {figures}. Computed in "
        f"{precision} on {machine}."
    )


def _table(measured: Cells) -> list[str]:
    columns = ["accuracy", "less plain KD, points"]
    columns += ["SAGE less it, points"] if SAGE in _arms(measured) else []
    columns += ["retention", "agreement", "less plain KD, points", "ECE"]
    if are_timed := all(_times(measured, arm) for arm in _arms(measured)):
        columns.append("seconds")
    return [
        _teacher_and_seeds(measured),
        "",
        cells("", *columns),
        "|---|" + "---:|" * len(columns),
        *(_row(arm, measured, are_timed=are_timed) for arm in _arms(measured)),
    ]


def _trial_table(measured: Cells) -> list[str]:
    columns = ["accuracy", "less plain KD, points", "agreement", "less plain KD, points", "loss", "less plain KD"]
    return [
        _teacher_and_seeds(measured),
        "",
        cells("", *columns),
        "|---|" + "---:|" * len(columns),
        *(_trial_row(arm, measured) for arm in _arms(measured)),
    ]


def _trial_row(arm: str, measured: Cells) -> str:
    own = _values(measured, arm)
    accuracy, agreement, loss = (
        None if arm == KD else difference(measured, arm, KD, value) for value in (_accuracy, _agreement, _loss)
    )
    return cells(
        TITLES[arm],
        _percent(mean_interval([_accuracy(outcome) for outcome in own.values()])),
        _points(accuracy),
        _percent(mean_interval([outcome.agreement for outcome in own.values()])),
        _points(agreement),
        f"{statistics.fmean(_loss(outcome) for outcome in own.values()):.4f}",
        _signed(loss, 1, 4),
    )


def _arms(measured: Cells) -> list[str]:
    return [arm for arm in ARMS if all(arm in cell for cell in measured.values())]


def _teacher_and_seeds(measured: Cells) -> str:
    teacher = statistics.fmean(_accuracy(cell[TEACHER]) for cell in measured.values())
    return f"Teacher: {100 * teacher:.2f} %. Seeds: {', '.join(str(seed) for seed in sorted(measured))}."


def _row(arm: str, measured: Cells, *, are_timed: bool) -> str:
    own = _values(measured, arm)
    calibration = statistics.fmean(outcome.test["calibration_error"] for outcome in own.values())
    return cells(
        TITLES[arm],
        _percent(mean_interval([_accuracy(outcome) for outcome in own.values()])),
        "" if arm == KD else _points(difference(measured, arm, KD, _accuracy)),
        *([_sage_less(arm, measured)] if SAGE in _arms(measured) else []),
        _percent(mean_interval([outcome.retention for outcome in own.values()])),
        _percent(mean_interval([outcome.agreement for outcome in own.values()])),
        "" if arm == KD else _points(difference(measured, arm, KD, _agreement)),
        f"{calibration:.3f}",
        *([f"{statistics.median(_times(measured, arm)):.0f}"] if are_timed else []),
    )


def _sage_less(arm: str, measured: Cells) -> str:
    return "" if arm in (SAGE, SAGE_ON_LESS) else _points(difference(measured, SAGE, arm, _accuracy))


def _times(measured: Cells, arm: str) -> list[float]:
    return [outcome.seconds for outcome in _values(measured, arm).values() if outcome.seconds is not None]


def _verdicts(found: list[tuple[str, int | None, Cells]]) -> list[str]:
    """The goals, each with what speaks for and against it, as far as the arms are there that they ask for."""
    if not all({KD, SAGE} <= {*_arms(measured)} for _, _, measured in found):
        return []
    lines = []
    for kind, rows, values in (
        ("accuracy, all rows", None, [_accuracy]),
        ("agreement, all rows", None, [_agreement]),
        ("accuracy and agreement, 2,000 rows", 2_000, [_accuracy, _agreement]),
    ):
        tables = [(dataset, measured) for dataset, size, measured in found if size == rows]
        if not tables:
            continue
        above = [name for name, measured in tables if all(is_above(measured, SAGE, KD, value) for value in values)]
        below = [name for name, measured in tables if any(is_above(measured, KD, SAGE, value) for value in values)]
        line = (
            f"- {kind}: SAGE above plain KD (interval of three seeds or more above zero) on "
            f"{_names(above, tables)}; below it on {_names(below, tables)}"
        )
        if controls := [arm for arm in CONTROLS if all(arm in _arms(measured) for _, measured in tables)]:
            control = [
                name
                for name, measured in tables
                if all(is_above(measured, SAGE, other, value) for other in controls for value in values)
            ]
            beside = "both controls" if len(controls) > 1 else TITLES[controls[0]]
            line += f"; above {beside} on {_names(control, tables)}"
        lines.append(f"{line}.")
    for rows in dict.fromkeys(size for _, size, _ in found):
        lines += _together(rows, {dataset: measured for dataset, size, measured in found if size == rows})
    reached = []
    for dataset, rows, measured in found:
        less = difference(measured, SAGE_ON_LESS, KD, _accuracy)
        if less is None:
            return lines
        if less.mean >= 0:
            reached.append(f"{dataset} ({size_name(rows)}, {_points(less)} points)")
    lines.append(
        f"- {TITLES[SAGE_ON_LESS]} is in the mean at or above plain KD on the whole of it on {len(reached)} of "
        f"{len(found)}: {', '.join(reached) or 'none'}."
    )
    return lines


def _together(rows: int | None, tables: Mapping[str, Cells]) -> list[str]:
    """SAGE less plain KD and its controls over all datasets of one size, where there are several."""
    if len(tables) == 1:
        return []
    parts = []
    for other in (KD, *CONTROLS):
        accuracy, agreement = (over_all(tables, SAGE, other, value) for value in (_accuracy, _agreement))
        if accuracy is not None and agreement is not None:
            parts.append(
                f"less {TITLES[other]} accuracy {_points(accuracy)}, agreement {_points(agreement)} "
                f"({accuracy.pairs} pairs)"
            )
    return [
        f"- {size_name(rows)}, the {len(tables)} datasets together: SAGE {'; '.join(parts)}. The pairs of a dataset "
        "share its teacher and its test rows, so these intervals are of these datasets and say nothing of another one."
    ]


def over_all(tables: Mapping[str, Cells], arm: str, other: str, value: Value) -> Difference | None:
    """`arm` less `other`, paired by dataset and seed; None where a dataset lacks one of them."""
    if not all({arm, other} <= {*_arms(measured)} for measured in tables.values()):
        return None
    ours, theirs = (
        {(name, seed): value(cell[which]) for name, measured in tables.items() for seed, cell in measured.items()}
        for which in (arm, other)
    )
    return paired_difference(ours, theirs)


def _beside_the_paper(found: list[tuple[str, int | None, Cells]]) -> list[str]:
    """What the student keeps of its teacher, beside what the paper's kept of BERT-base."""
    lines = []
    for dataset, rows, measured in found:
        goal = PAPER_RETENTION.get(dataset)
        if goal is None or rows is not None:
            continue
        for arm in _arms(measured):
            kept = mean_interval([cell[arm].retention for cell in measured.values()])
            lines.append(f"- {dataset}, {TITLES[arm]}: keeps {_percent(kept)} (the paper's: {100 * goal:.1f} %).")
    return lines


def is_above(measured: Cells, arm: str, other: str, value: Value) -> bool:
    """The interval of the paired difference, of enough seeds, lies above zero."""
    found = difference(measured, arm, other, value)
    return found is not None and found.pairs >= SEEDS_AT_LEAST and found.mean - found.half_width > 0


def difference(measured: Cells, arm: str, other: str, value: Value) -> Difference | None:
    """`arm` less `other`, paired by seed."""
    ours, theirs = _values(measured, arm), _values(measured, other)
    return paired_difference(
        {seed: value(outcome) for seed, outcome in ours.items()},
        {seed: value(outcome) for seed, outcome in theirs.items()},
    )


def _values(measured: Cells, arm: str) -> dict[int, Outcome]:
    return {seed: cell[arm] for seed, cell in measured.items() if arm in cell}


def _accuracy(outcome: Outcome) -> float:
    return outcome.test["accuracy"]


def _loss(outcome: Outcome) -> float:
    return outcome.test["loss"]


def _agreement(outcome: Outcome) -> float:
    return outcome.agreement


def _names(chosen: list[str], tables: list[tuple[str, Cells]]) -> str:
    return f"{len(chosen)} of {len(tables)}" + (f" ({', '.join(chosen)})" if chosen else "")


def _percent(interval: tuple[float, float]) -> str:
    mean, half_width = interval
    return f"{100 * mean:.2f}" + (f" ± {100 * half_width:.2f} %" if math.isfinite(half_width) else " %")


def _points(found: Difference | None) -> str:
    return _signed(found, 100, 2)


def _signed(found: Difference | None, factor: float, digits: int) -> str:
    """`factor` times the difference, with its interval where there is one."""
    if found is None:
        return ""
    spread = f" ± {factor * found.half_width:.{digits}f}" if math.isfinite(found.half_width) else ""
    return f"{factor * found.mean:+.{digits}f}{spread}"
