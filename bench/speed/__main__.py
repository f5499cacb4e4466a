"""`python -m bench.speed`: whole distillation jobs, Stillhouse beside its peers, into docs/benchmarks.md.

Every job that is done is kept under .bench/, keyed by all that decides it, so the bench may be stopped at any time and
goes on from there: `--minutes 30` stops it after the job under way. All of it takes most of a day on two cores.
`--quick` does everything once with a tiny model: to see that it works, and not to measure.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import datasets, machine, tiny
from bench.bases import base_folder
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS, Pair, make_models
from bench.options import add_shared, names_of, open_cache
from bench.report import PAGE, Section, write_section
from bench.speed import quick
from bench.speed.comparison import Comparison
from bench.speed.plan import System, chosen_systems
from bench.speed.tables import Measured, report
from worker.machine import count_cores

TITLE = "Distillation beside TextBrewer, torchdistill and the Trainer"
# Each pair of models has a section of its own.
SECTIONS = {"minilm": Section(TITLE, "bench-speed"), "mpnet": Section(f"{TITLE}: mpnet", "bench-speed PAIR=mpnet")}


@dataclass(frozen=True)
class Deadline:
    """No job begins after it."""

    at: float | None

    def has_passed(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


def main() -> int:
    options = _parser().parse_args()
    page = options.page
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            comparison = quick.comparison(Path(folder))
            measure_rounds([comparison], quick.SYSTEMS, rounds=1, deadline=Deadline(None))
            finish(tiny.PAIR, [comparison], rounds=1, page=page)
        return 0
    deadline = Deadline(time.monotonic() + 60 * options.minutes if options.minutes else None)
    pair = PAIRS[options.pair]
    systems = chosen_systems(options.only)
    comparisons = prepare(pair, options.dataset, options.data, options.cache, options.rows)
    if not options.report:
        measure_rounds(comparisons, systems, options.rounds, deadline)
    # A part of the rows shows that things work; it is no result.
    finish(pair, comparisons, options.rounds, page=page or (None if options.rows else PAGE))
    return 0


def prepare(pair: Pair, names: list[str], data: Path | None, cache: Path, rows: int | None) -> list[Comparison]:
    """Data and models of each dataset, from the cache where they are there."""
    if problems := [text for name in names if (text := datasets.missing_files(name, data))]:
        raise SystemExit("\n".join(problems))
    cache = open_cache(cache)
    threads = count_cores()
    comparisons = []
    for name in names:
        dataset = datasets.prepare(name, data, cache, rows)
        models = make_models(base_folder(pair, cache), pair, dataset, cache, threads)
        comparisons.append(Comparison(dataset, models, Hyperparameters(), machine.fast_precision(), threads, cache))
    return comparisons


def measure_rounds(comparisons: list[Comparison], systems: tuple[System, ...], rounds: int, deadline: Deadline) -> None:
    """Every cell that is not there yet: all systems on a dataset, then the next dataset, then the next round."""
    for number in range(1, rounds + 1):
        for comparison in comparisons:
            for system in systems:
                if deadline.has_passed():
                    print("The time is up; run it again to go on.", flush=True)
                    return
                name = f"round {number}, {comparison.dataset.name}, {system.id}"
                if comparison.cell(system, number) is not None:
                    continue
                print(f"{name} ...", flush=True)
                cell = comparison.measure(system, number)
                print(
                    f"{name}: {cell.seconds:.1f} s, step {1000 * cell.step_seconds_median:.0f} ms, test accuracy "
                    f"{cell.test_accuracy:.4f}, {cell.peak_rss_bytes / 1e9:.2f} GB, load {cell.load_before:.1f}",
                    flush=True,
                )


def finish(pair: Pair, comparisons: list[Comparison], rounds: int, page: Path | None) -> None:
    """Print what there is by now, and write it to `page` if there is one."""
    found = [(comparison, measured) for comparison in comparisons if (measured := collect(comparison, rounds))]
    if not found:
        print("Nothing is measured yet.")
        return
    first = comparisons[0]
    text = "\n".join(report(pair, first.hyper, first.precision, found))
    print(text)
    if page is not None:
        write_section(SECTIONS.get(pair.name, SECTIONS["minilm"]), text, page)
        print(f"\nWritten to {page}")


def collect(comparison: Comparison, rounds: int) -> Measured:
    """All cells of the dataset that are there, whichever systems were asked for this time."""
    measured = {}
    for system in chosen_systems(None):
        if not comparison.has_environment(system):
            continue
        by_round = {number: comparison.cell(system, number) for number in range(1, rounds + 1)}
        if present := {number: cell for number, cell in by_round.items() if cell is not None}:
            measured[system.id] = present
    return measured


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    add_shared(parser)
    parser.add_argument(
        "--dataset",
        type=names_of(datasets.SOURCES),
        default=list(datasets.FULL),
        help=f"comma-separated, of {', '.join(datasets.SOURCES)} (default: {','.join(datasets.FULL)})",
    )
    parser.add_argument("--pair", choices=sorted(PAIRS), default="minilm", help="teacher and student")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="comma-separated systems: stillhouse, trainer (both settings), trainer-best ...")
    parser.add_argument("--minutes", type=float, help="begin no job after so many minutes")
    parser.add_argument("--rows", type=int, help="at most so many rows of each split; prints the report only")
    parser.add_argument("--report", action="store_true", help="measure nothing; write what there is")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
