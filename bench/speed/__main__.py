"""`python -m bench.speed`: whole distillation jobs, Stillhouse beside its peers, into docs/benchmarks.md.

Every job that is done is kept under .bench/, keyed by all that decides it, so the bench may be stopped at any time and
goes on from there: `--minutes 30` stops it after the job under way. All of it takes most of a day on two cores.
`--quick` does everything once with a tiny model: to see that it works, and not to measure.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench import datasets, machine, tiny
from bench.bases import base_folder
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS, Pair, make_models
from bench.options import add_shared, in_order, names_of, open_cache
from bench.report import PAGE, Section, write_section
from bench.speed import quick
from bench.speed.comparison import Comparison
from bench.speed.plan import System, chosen_systems
from bench.speed.tables import Measured, report
from worker.machine import count_cores

TITLE = "Distillation beside TextBrewer, torchdistill and the Trainer"
ROUNDS = 5
# Each pair of models has a section of its own on either device: these are in bf16, and fp32 has its own again.
SECTIONS = {
    ("minilm", "cpu"): Section(TITLE, "bench-speed"),
    ("mpnet", "cpu"): Section(f"{TITLE}: mpnet", "bench-speed PAIR=mpnet"),
    ("random", "cpu"): Section(f"{TITLE}: BERT-base", "bench-speed PAIR=random"),
    ("minilm", "cuda"): Section(f"{TITLE}, on a GPU: MiniLM", "bench-speed DEVICE=cuda PAIR=minilm"),
    ("mpnet", "cuda"): Section(f"{TITLE}, on a GPU: mpnet", "bench-speed DEVICE=cuda PAIR=mpnet"),
    ("random", "cuda"): Section(f"{TITLE}, on a GPU", "bench-speed DEVICE=cuda"),
}


def section(pair: str, device: str, precision: str, *, batch_size: int, names: Sequence[str], rounds: int) -> Section:
    """Where what was measured so is to be found."""
    found = SECTIONS[pair, device]
    if precision != "bf16":
        found = found.but("in fp32", "PRECISION=fp32")
    if batch_size != Hyperparameters().batch_size:
        found = found.but(f"batches of {batch_size}", f"BATCH_SIZE={batch_size}")
    return found.but_with(rounds, ROUNDS, "rounds").but_on(names, datasets.FULL)


@dataclass(frozen=True)
class Deadline:
    """No job begins after it."""

    at: float | None

    @classmethod
    def after(cls, minutes: float | None) -> Self:
        return cls(None if minutes is None else time.monotonic() + 60 * minutes)

    def has_passed(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


def main() -> int:
    options = _parser().parse_args()
    page = options.page
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            comparison = quick.comparison(Path(folder))
            are_all_well = measure_rounds([comparison], quick.SYSTEMS, rounds=1, deadline=Deadline(None))
            finish(None, [comparison], rounds=1, page=page)
        return 0 if are_all_well else 1
    deadline = Deadline.after(options.minutes)
    pair = PAIRS[options.pair or ("random" if options.device == "cuda" else "minilm")]
    systems = chosen_systems(options.only)
    comparisons = prepare(pair, options)
    are_all_well = options.report or measure_rounds(comparisons, systems, options.rounds, deadline)
    # A part of the rows shows that things work; it is no result.
    finish(pair, comparisons, max(options.rounds, ROUNDS), page=page or (None if options.rows else PAGE))
    return 0 if are_all_well else 1


def prepare(pair: Pair, options: argparse.Namespace) -> list[Comparison]:
    """Data and models of each dataset, from the cache where they are there."""
    names, device = in_order(options.dataset, datasets.FULL), options.device
    if problems := [text for name in names if (text := datasets.missing_files(name, options.data))]:
        raise SystemExit("\n".join(problems))
    machine.facts(device)  # that there is such a device is found before anything is made for it
    cache = open_cache(options.cache)
    threads = count_cores()
    hyper = Hyperparameters(batch_size=options.batch_size, learning_rate=pair.learning_rate)
    precision = options.precision or machine.fast_precision(device)
    comparisons = []
    for name in names:
        dataset = datasets.prepare(name, options.data, cache, options.rows)
        models = make_models(base_folder(pair, cache), pair, dataset, cache, threads, device)
        comparison = Comparison(dataset, models, hyper, precision, threads, cache, device)
        if options.peers_here:
            comparison.shared_python = Path(sys.executable)
        comparisons.append(comparison)
    return comparisons


def measure_rounds(comparisons: list[Comparison], systems: tuple[System, ...], rounds: int, deadline: Deadline) -> bool:
    """Every cell that is not there yet: all systems on a dataset, then the next dataset, then the next round.

    A system that fails on a dataset is left out there from then on, and the others go on. Whether none did.
    """
    failed: set[tuple[str, System]] = set()
    for number in range(1, rounds + 1):
        for comparison in comparisons:
            for system in systems:
                if deadline.has_passed():
                    print("The time is up; run it again to go on.", flush=True)
                    return not failed
                if (comparison.dataset.name, system) in failed:
                    continue
                name = f"round {number}, {comparison.dataset.name}, {system.id}"
                try:
                    if comparison.cell(system, number) is not None:
                        continue
                    print(f"{name} ...", flush=True)
                    cell = comparison.measure(system, number)
                except Exception as error:  # a peer is a stranger's program, and its environment the network's
                    failed.add((comparison.dataset.name, system))
                    print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                    continue
                print(
                    f"{name}: {cell.seconds:.1f} s, step {1000 * cell.step_seconds_median:.0f} ms, test accuracy "
                    f"{cell.test_accuracy:.4f}, {cell.peak_rss_bytes / 1e9:.2f} GB, load {cell.load_before:.1f}",
                    flush=True,
                )
    return not failed


def finish(pair: Pair | None, comparisons: list[Comparison], rounds: int, page: Path | None) -> None:
    """Print what there is by now, and write it to `page` if there is one; without a pair the tiny one was measured."""
    found = [(comparison, measured) for comparison in comparisons if (measured := collect(comparison, rounds))]
    if not found:
        print("Nothing is measured yet.")
        return
    first = comparisons[0]
    text = "\n".join(report(pair or tiny.PAIR, first, found))
    print(text)
    if page is not None:
        # The tiny pair shows how the page is written, in the section of the pair that most ask for.
        where = SECTIONS["minilm", "cpu"]
        if pair:
            names, batch_size = [comparison.dataset.name for comparison in comparisons], first.hyper.batch_size
            where = section(pair.name, first.device, first.precision, batch_size=batch_size, names=names, rounds=rounds)
        write_section(where, text, page)
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
    parser.add_argument(
        "--pair", choices=sorted(PAIRS), help="teacher and student (default: minilm, and random on a GPU)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what all systems compute on")
    parser.add_argument(
        "--precision",
        choices=["bf16", "fp32"],
        help="of Stillhouse, and of the peers at their best (default: bf16 where it is the faster one on the device)",
    )
    parser.add_argument("--batch-size", type=int, default=Hyperparameters().batch_size)
    parser.add_argument(
        "--peers-here", action="store_true", help="run the peers by this interpreter, which has their libraries"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", help="comma-separated systems: stillhouse, trainer (both settings), trainer-best ...")
    parser.add_argument("--minutes", type=float, help="begin no job after so many minutes")
    parser.add_argument("--rows", type=int, help="at most so many rows of each split; prints the report only")
    parser.add_argument("--report", action="store_true", help="measure nothing; write what there is")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
