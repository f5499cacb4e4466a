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
from bench.options import add_shared, names_of, open_cache
from bench.quality.measure import Outcome, find, measure
from bench.quality.plan import DATASETS, Plan
from bench.quality.tables import Cells, introduction, report
from bench.report import PAGE, Section, write_section
from bench.setting import SIZES, Prepared, Setting, measure_missing, prepare
from bench.tiny import PAIR, make_tiny

# Each pair of models has a section of its own.
SECTIONS = {
    "minilm": Section("What SAGE is worth", "bench-quality"),
    "mpnet": Section("What SAGE is worth: mpnet", "bench-quality PAIR=mpnet"),
}


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            tiny = _measure_tiny(Path(folder))
            finish([("tiny", None, tiny)], "A tiny random BERT", SECTIONS["minilm"], options.page)
        return 0
    if problems := [text for name in options.dataset if (text := datasets.missing_files(name, options.data))]:
        raise SystemExit("\n".join(problems))
    cache = open_cache(options.cache)
    changes = tuple(sorted(options.change))
    pair = PAIRS[options.pair]
    prepared: Prepared = {}
    for name in options.dataset:
        for size in options.size:
            prepared[name, SIZES[size]] = prepare(name, SIZES[size], options.data, cache, pair.name)
    plans = [Plan(name, rows, seed, changes) for seed in range(1, options.seeds + 1) for name, rows in prepared]
    if not options.report:
        measure_missing(plans, prepared, find, measure, _describe, options.minutes)
    found = _collect(plans, prepared)
    if not found:
        print("Nothing is measured yet.")
        return 0
    title = f"{pair.teacher}, {pair.teacher_layers} layers, to {pair.student_layers} of them"
    page = None if changes else options.page or PAGE
    finish(found, title, SECTIONS[pair.name], page, on_validation=bool(changes))
    return 0


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
    section: Section,
    page: Path | None,
    *,
    on_validation: bool = False,
) -> None:
    """Print what there is by now, and write it to `page` if there is one."""
    facts = machine.facts()
    text = "\n".join(
        report(found, introduction(pair, f"{facts['processor']}, {facts['cores']} cores"), on_validation=on_validation)
    )
    print(text)
    if page is not None:
        write_section(section, text, page)
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
    parser.add_argument("--dataset", type=names_of(DATASETS), default=list(DATASETS), help=f"of {', '.join(DATASETS)}")
    parser.add_argument("--size", type=names_of(SIZES), default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to so many (default: 5)")
    parser.add_argument("--pair", choices=sorted(PAIRS), default="minilm", help="teacher and student")
    parser.add_argument("--change", nargs="+", type=_change, default=[], help="parameters of SAGE, name=value")
    parser.add_argument("--minutes", type=float, help="begin no cell after so many minutes")
    parser.add_argument("--report", action="store_true", help="measure nothing; write what there is")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
