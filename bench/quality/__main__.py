"""`python -m bench.quality`: is SAGE worth its cost? Five methods on one budget, into docs/benchmarks.md.

Every cell (a dataset, a size, a seed) is kept under .bench/, keyed by all that decides it, so the bench may be stopped
at any time and goes on from there: `--minutes 30` begins no cell after that. All of it takes hours on two cores.
`--change neighbors=20` tries another SAGE: it reports validation only and writes no page, so that what is chosen by it
is not chosen by the test split. `--quick` does everything once with a tiny model: to see that it works.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench import datasets, machine
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS
from bench.options import add_engine, add_shared, names_of, open_cache
from bench.quality.measure import Outcome, find, measure
from bench.quality.plan import ARMS, DATASETS, EPOCHS, KD, PAPER_RETENTION, SAGE, Plan
from bench.quality.tables import Cells, introduction, report
from bench.report import PAGE, Section, write_section
from bench.setting import SIZES, Prepared, Setting, measure_missing, prepare
from bench.tiny import PAIR, make_tiny

TITLE = "What SAGE is worth"
# At the paper's sizes a cell is a hundred times one of the small pair: there the question is SAGE against plain KD.
PAPER = "mpnet"


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            tiny = _measure_tiny(Path(folder))
            finish([("tiny", None, tiny)], "A tiny random BERT", options, options.page)
        return 0
    is_paper = options.pair == PAPER
    names = options.dataset or list(PAPER_RETENTION if is_paper else DATASETS)
    if problems := [text for name in names if (text := datasets.missing_files(name, options.data))]:
        raise SystemExit("\n".join(problems))
    cache = open_cache(options.cache)
    changes = tuple(sorted(options.change))
    pair = PAIRS[options.pair]
    prepared: Prepared = {}
    for name in names:
        for size in options.size or (["all"] if is_paper else list(SIZES)):
            prepared[name, SIZES[size]] = prepare(
                name, SIZES[size], options.data, cache, pair.name, options.device, options.at_once
            )
    arms = tuple(arm for arm in ARMS if arm in (options.arms or ((KD, SAGE) if is_paper else ARMS)))
    plans = [
        Plan(name, rows, seed, changes, options.epochs, arms)
        for seed in range(1, options.seeds + 1)
        for name, rows in prepared
    ]
    if not options.report:
        measure_missing(plans, prepared, find, measure, _describe, options.minutes)
    found = _collect(plans, prepared)
    if not found:
        print("Nothing is measured yet.")
        return 0
    title = f"{pair.teacher}, {pair.teacher_layers} layers, to {pair.student_layers} of them"
    page = None if changes else options.page or PAGE
    finish(found, title, options, page, on_validation=bool(changes), at_papers_size=is_paper)
    return 0


def _section(options: argparse.Namespace) -> Section:
    """Each pair of models, device and budget has a section of its own."""
    title, command = TITLE, "bench-quality"
    if options.pair != "minilm":
        title, command = f"{title}: {options.pair}", f"{command} PAIR={options.pair}"
    if options.epochs != EPOCHS:
        title, command = f"{title}, {options.epochs:g} epochs", f"{command} EPOCHS={options.epochs:g}"
    if options.device != "cpu":
        title, command = f"{title}, on a GPU", f"{command} DEVICE={options.device}"
    return Section(title, command)


def _describe(plan: Plan, outcomes: dict[str, Outcome]) -> str:
    figures = ", ".join(f"{arm} {outcome.validation['accuracy']:.4f}" for arm, outcome in outcomes.items())
    return f"{plan.name}; on validation {figures}"


def _collect(plans: list[Plan], prepared: Prepared) -> list[tuple[str, int | None, Cells]]:
    """By dataset and size, the cells that are there."""
    found = []
    for (name, rows), (dataset, setting) in prepared.items():
        own = [plan for plan in plans if (plan.dataset, plan.rows) == (name, rows)]
        cells = {plan.seed: cell for plan in own if (cell := find(plan, dataset, setting)) is not None}
        if cells:
            found.append((name, rows, cells))
    return found


def finish(
    found: list[tuple[str, int | None, Cells]],
    pair: str,
    options: argparse.Namespace,
    page: Path | None,
    *,
    on_validation: bool = False,
    at_papers_size: bool = False,
) -> None:
    """Print what there is by now, and write it to `page` if there is one."""
    head = introduction(pair, options.epochs, machine.describe(options.device), are_timed=options.at_once == 1)
    text = "\n".join(report(found, head, on_validation=on_validation, at_papers_size=at_papers_size))
    print(text)
    if page is not None:
        write_section(_section(options), text, page)
        print(f"\nWritten to {page}")


def _measure_tiny(folder: Path) -> Cells:
    models, dataset = make_tiny(folder, train_rows=160)
    setting = Setting(models, Hyperparameters(learning_rate=3e-3), PAIR.student_layers, "fp32", 1, folder)
    return {1: measure(Plan("tiny", None, 1), dataset, setting)}


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is no JSON value") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    add_shared(parser)
    add_engine(parser)
    known = [name for name in datasets.SOURCES if name != datasets.DEMO]
    parser.add_argument("--dataset", type=names_of(known), help=f"of {', '.join(known)} (default: the pair's)")
    parser.add_argument("--size", type=names_of(SIZES), help=f"of {', '.join(SIZES)} (default: both; mpnet: all)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to so many (default: 5)")
    parser.add_argument("--pair", choices=("minilm", PAPER), default="minilm", help="teacher and student")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help=f"the budget (default: {EPOCHS:g})")
    parser.add_argument("--arms", type=names_of(ARMS), help=f"of {', '.join(ARMS)} (default: all; mpnet: {KD}, {SAGE})")
    parser.add_argument("--change", nargs="+", type=_change, default=[], help="parameters of SAGE, name=value")
    parser.add_argument("--report", action="store_true", help="measure nothing; write what there is")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
