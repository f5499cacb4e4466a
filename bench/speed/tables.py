"""The report: what docs/benchmarks.md shows."""

import math
import statistics
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from bench.figures import Difference, median_ratio, paired_difference
from bench.hyperparameters import Hyperparameters
from bench.models import Pair
from bench.report import cells, listed
from bench.results import Cell
from bench.speed.comparison import Comparison
from bench.speed.plan import BEST, DOCUMENTED, STILLHOUSE, SYSTEMS, System

# By system id, then by round.
Measured = Mapping[str, Mapping[int, Cell]]
# What a machine does changes from hour to hour: a job that began longer after the one before it is of another time.
PAUSE_SECONDS = 3_600.0

TITLES = {
    "stillhouse": "Stillhouse",
    "textbrewer": "TextBrewer",
    "torchdistill": "torchdistill",
    "trainer": "Trainer with a KL loss",
}


def report(pair: Pair, first: Comparison, found: list[tuple[Comparison, Measured]]) -> list[str]:
    """The whole section; `found` has the datasets with at least one measured cell."""
    lines = introduction(pair, first.hyper, first.precision, first.device)
    for comparison, measured in found:
        lines += ["", *dataset_part(comparison, measured)]
    rates = [row for comparison, measured in found for row in rate_rows(comparison, measured)]
    if rates:
        lines += ["", *rate_table(rates)]
    return lines


def introduction(pair: Pair, hyper: Hyperparameters, precision: str, device: str) -> list[str]:
    around = "bf16 around both models, " if precision == "bf16" else ""
    attention = "eager attention, " if device == "cpu" else ""
    return [
        f"Whole jobs, each a process of its own: {pair.teacher}, tuned once for the dataset, as the teacher of a "
        f"student that begins with {pair.student_layers} of its {pair.teacher_layers} layers; {hyper.epochs} epochs of "
        f"batch {hyper.batch_size}, learning rate {hyper.learning_rate:g}, temperature {hyper.temperature:g}, and "
        f"{hyper.alpha:g} of the loss from the teacher, the same for all; validation after each epoch, and the better "
        "epoch is tested. A job is the time from launch to exit: loading, the teacher, training, the test and the "
        "student's folder. *As documented* is what each peer's own examples do, in fp32; *best* adds what its user can "
        f"add: {around}padding per batch, rows of like length together, {attention}the "
        "fused AdamW, and a teacher that answers the training rows once instead of in every step. A step is the mean "
        "from one optimiser step to the next; as documented the teacher's answer is part of it. Systems alternate "
        "within a round, with the round's number as seed; times are medians over the rounds, ratios medians of the "
        f"ratios within a round that was measured in one go (no pause of more than {PAUSE_SECONDS / 60:.0f} minutes), "
        "differences of accuracy paired by round with a 95 % interval (Student's t).",
    ]


def dataset_part(comparison: Comparison, measured: Measured) -> list[str]:
    dataset = comparison.dataset
    rows = ", ".join(f"{count:,} {split}" for split, count in dataset.rows.items())
    note = f" ({dataset.note})" if dataset.note else ""
    lines = [
        f"### {dataset.name}",
        "",
        f"{rows} rows{note}, {dataset.labels} labels, at most {dataset.max_length} tokens; {comparison.steps} steps. "
        + provenance(measured),
        "",
        "| | rounds | job | start | load | teacher | training | test | step | test accuracy | memory | "
        "Stillhouse takes | Stillhouse less it, points |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(system_row(system, measured) for system in SYSTEMS if measured.get(system.id)),
    ]
    remarks = [of_another_time(measured), *(verdict(settings, measured) for settings in (DOCUMENTED, BEST))]
    return [*lines, *(line for text in remarks if text for line in ("", text))]


def beside_ours(measured: Measured, number: int) -> set[str]:
    """The systems whose jobs of this round and Stillhouse's follow each other without a long pause."""
    jobs = sorted(
        (by_round[number].started_at, by_round[number].seconds, system_id)
        for system_id, by_round in measured.items()
        if number in by_round
    )
    goes: list[set[str]] = []
    ended = -math.inf
    for started_at, seconds, system_id in jobs:
        if started_at - ended > PAUSE_SECONDS:
            goes.append(set())
        goes[-1].add(system_id)
        ended = started_at + seconds
    return next((go for go in goes if STILLHOUSE.id in go), set())


def job_ratio(system: System, measured: Measured) -> float | None:
    """Stillhouse's time over the system's, of the rounds in which both were measured in one go."""
    own = {number: cell for number, cell in measured[system.id].items() if system.id in beside_ours(measured, number)}
    return median_ratio(_values(measured.get(STILLHOUSE.id, {}), _seconds), _values(own, _seconds))


def of_another_time(measured: Measured) -> str | None:
    """The jobs that no ratio is made of: Stillhouse's has been measured anew since, or before."""
    apart = []
    for system in SYSTEMS:
        both = measured.get(system.id, {}).keys() & measured.get(STILLHOUSE.id, {}).keys()
        if rounds := [str(number) for number in sorted(both) if system.id not in beside_ours(measured, number)]:
            apart.append(f"{_title(system)} (round{'s' if len(rounds) > 1 else ''} {listed(rounds)})")
    if not apart:
        return None
    return f"In no ratio, since they ran at another time than Stillhouse's job of that round: {'; '.join(apart)}."


def provenance(measured: Measured) -> str:
    """When, where and beside what load the cells were measured."""
    all_cells = [cell for by_round in measured.values() for cell in by_round.values()]
    days = sorted(f"{datetime.fromtimestamp(cell.started_at, UTC):%Y-%m-%d %H:%M}" for cell in all_cells)
    before = [cell.load_before for cell in all_cells]
    after = [cell.load_after for cell in all_cells]
    machine = all_cells[0].machine
    crowded = f", more than its {machine['cores']} threads: it was not alone" if max(after) > machine["cores"] else ""
    packages = all_cells[0].packages
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    return (
        f"Measured from {days[0]} to {days[-1]} UTC on {gpu}{machine['processor']}, {machine['cores']} cores; Python "
        f"{machine['python']}, torch {packages.get('torch', '?')}, transformers {packages.get('transformers', '?')}; "
        f"load average before a job {statistics.median(before):.1f} in the median and {max(before):.1f} at most, after "
        f"it {statistics.median(after):.1f} and {max(after):.1f}{crowded}."
    )


def system_row(system: System, measured: Measured) -> str:
    own, ours = measured[system.id], measured.get(STILLHOUSE.id, {})
    compared = ["", ""]
    if system != STILLHOUSE:
        compared = [
            _ratio(job_ratio(system, measured)),
            _points(paired_difference(_values(ours, _accuracy), _values(own, _accuracy))),
        ]
    return cells(
        _title(system),
        str(len(own)),
        f"{_middle(own, _seconds):.1f} s",
        f"{_middle(own, lambda cell: cell.phases['start']):.1f} s",
        f"{_middle(own, lambda cell: cell.phases['load']):.1f} s",
        f"{_middle(own, teacher_seconds):.1f} s",
        f"{_middle(own, student_seconds):.1f} s",
        f"{_middle(own, lambda cell: cell.phases['evaluation']):.1f} s",
        _milliseconds(_middle(own, lambda cell: cell.step_seconds_mean)),
        f"{100 * _middle(own, _accuracy):.2f} %",
        f"{_middle(own, lambda cell: cell.peak_rss_bytes) / 1e9:.2f} GB",
        *compared,
    )


def verdict(settings: str, measured: Measured) -> str | None:
    """Against the fastest of the peers at these settings, and against the most accurate."""
    ours = measured.get(STILLHOUSE.id)
    peers = [system for system in SYSTEMS if system.settings == settings and measured.get(system.id)]
    if not ours or not peers:
        return None
    fastest = min(peers, key=lambda system: _middle(measured[system.id], _seconds))
    best = max(peers, key=lambda system: statistics.fmean(_values(measured[system.id], _accuracy).values()))
    peers_are = {DOCUMENTED: "Peers as documented", BEST: "Peers at their best"}[settings]
    ratio = job_ratio(fastest, measured)
    taken = "of another time" if ratio is None else f"of whose time Stillhouse takes {_ratio(ratio)}"
    difference = paired_difference(_values(ours, _accuracy), _values(measured[best.id], _accuracy))
    differs = f"to which Stillhouse differs by {_points(difference)} points"
    if len(peers) == 1:
        # One alone is neither the fastest nor the most accurate of anything.
        return f"{peers_are}: only {TITLES[best.name]} was measured, {taken}, and {differs}."
    return (
        f"{peers_are}: the fastest is {TITLES[fastest.name]}, {taken}; the most accurate {TITLES[best.name]}, "
        f"{differs}."
    )


def rate_table(rows: list[str]) -> list[str]:
    return [
        "Stillhouse's training step beside the machine's own matmul, measured right before and after each job at the "
        "step's shapes (real tokens x hidden x hidden and x 4 hidden, forward and both gradients); the faster of the "
        "two counts. Useful operations are 6 for each weight of a matmul and token, and 12 x length x hidden for each "
        "token and layer of attention; padding is not counted, nor what of the last layer no logit depends on. The "
        "step is the mean, all that goes on between two optimiser steps included.",
        "",
        "| | precision | tokens in a step | useful work | step, mean | useful rate | matmul, bf16 | matmul, fp32 | "
        "share of the matmul rate |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def rate_rows(comparison: Comparison, measured: Measured) -> list[str]:
    ours = measured.get(STILLHOUSE.id, {})
    if not ours:
        return []
    share = _middle(ours, lambda cell: useful_share(comparison.flops_per_step, comparison.precision, cell))
    step = _middle(ours, lambda cell: cell.step_seconds_mean)
    return [
        cells(
            comparison.dataset.name,
            comparison.precision,
            f"{comparison.tokens_per_step:,.0f}",
            f"{comparison.flops_per_step / 1e9:,.1f} GFLOP",
            _milliseconds(step),
            f"{comparison.flops_per_step / step / 1e9:,.0f} GFLOP/s",
            *(
                f"{_middle(ours, lambda cell, p=name: matmul_rate(cell, p)) / 1e9:,.0f} GFLOP/s"
                for name in ("bf16", "fp32")
            ),
            f"{share:.2f}",
        )
    ]


def matmul_rate(cell: Cell, precision: str) -> float:
    """FLOP/s of the machine beside this job: the faster of before and after, for a slower one was disturbed."""
    assert cell.matmul is not None
    return max(float(cell.matmul[when][precision]["rate"]) for when in ("before", "after"))


def useful_share(flops_per_step: float, precision: str, cell: Cell) -> float:
    """The step's useful FLOP/s over the machine's matmul FLOP/s."""
    return flops_per_step / cell.step_seconds_mean / matmul_rate(cell, precision)


def teacher_seconds(cell: Cell) -> float:
    """In a pass of its own, or in all steps together."""
    return cell.phases.get("teacher pass", cell.phases.get("teacher", 0.0))


def student_seconds(cell: Cell) -> float:
    """Training with its validations, the teacher's share left out."""
    inside = 0.0 if "teacher pass" in cell.phases else cell.phases.get("teacher", 0.0)
    return cell.phases["training"] - inside


def _title(system: System) -> str:
    return TITLES[system.name] + {DOCUMENTED: ", as documented", BEST: ", at its best"}.get(system.settings, "")


def _seconds(cell: Cell) -> float:
    return cell.seconds


def _accuracy(cell: Cell) -> float:
    return cell.test_accuracy


def _values(by_round: Mapping[int, Cell], of: Callable[[Cell], float]) -> dict[int, float]:
    return {number: of(cell) for number, cell in by_round.items()}


def _middle(by_round: Mapping[int, Cell], of: Callable[[Any], float]) -> float:
    return statistics.median(of(cell) for cell in by_round.values())


def _milliseconds(seconds: float) -> str:
    """A step on a processor takes tens of them, on a GPU one or two."""
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2f} ms"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _points(difference: Difference | None) -> str:
    if difference is None:
        return ""
    spread = f" ± {100 * difference.half_width:.2f}" if math.isfinite(difference.half_width) else ""
    return f"{100 * difference.mean:+.2f}{spread}"
