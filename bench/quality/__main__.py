"""`python -m bench.quality`: is SAGE worth its cost? Up to five methods on one budget, into docs/benchmarks.md.

Each method of a cell (a dataset, a size, a seed) is kept under .bench/, keyed by all that decides it, so the bench may
be stopped at any time and goes on from there: `--minutes 30` begins no cell after that. All of it takes hours on two
cores.
`--trial` judges by training rows that neither teacher nor student has seen, in the place of the test split, and
writes no page: what is chosen by it is not chosen by the test split. `--change neighbors=20` is a trial of another
SAGE. `--quick` does everything once with a tiny model: to see that it works.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.schemas.methods.sage import Sage
from bench import datasets, machine
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS
from bench.options import add_engine, add_shared, check_engine, in_order, names_of, open_cache
from bench.quality.measure import Outcome, find, measure
from bench.quality.plan import (
    ARMS,
    DATASETS,
    EPOCHS,
    KD,
    PAPER_RETENTION,
    SAGE,
    SAGE_ON_LESS,
    SEEDS,
    WARMUP_EPOCHS,
    Plan,
)
from bench.quality.tables import Cells, introduction, report
from bench.report import PAGE, Section, listed, write_section
from bench.setting import SIZES, Prepared, Setting, measure_missing, prepare, size_name
from bench.tiny import PAIR, make_tiny

TITLE = "What SAGE is worth"
# At the paper's sizes a cell is a hundred times one of the small pair: there the question is SAGE against plain KD.
PAPER = "mpnet"
DEFAULT_ARMS = {"minilm": ARMS, PAPER: (KD, SAGE)}


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    check_engine(parser, options)
    _check_change(parser, options.change)
    if not 1 <= options.first_seed <= options.seeds:
        parser.error(f"--first-seed {options.first_seed}: it takes 1 to {options.seeds}, the last one (--seeds)")
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            tiny = _measure_tiny(Path(folder))
            finish([("tiny", None, tiny)], "A tiny random BERT", "fp32", parser.parse_args([]), options.page)
        return 0
    names = _datasets(options)
    if problems := [text for name in names if (text := datasets.missing_files(name, options.data))]:
        raise SystemExit("\n".join(problems))
    cache = open_cache(options.cache)
    changes = tuple(sorted(options.change))
    pair = PAIRS[options.pair]
    prepared: Prepared = {}
    for name in names:
        for size in _sizes(options):
            prepared[name, SIZES[size]] = prepare(
                name,
                SIZES[size],
                options.data,
                cache,
                pair.name,
                options.device,
                options.at_once,
                is_trial=_is_trial(options),
            )
    # Also of the seeds that were not asked for this time: a part of the table is not to take its place.
    told = options.seeds if _is_trial(options) or options.first_seed > 1 else max(options.seeds, SEEDS)
    plans = [
        Plan(name, rows, seed, changes, options.epochs, _arms(options))
        for seed in range(options.first_seed, told + 1)
        for name, rows in prepared
    ]
    if not options.report:
        wanted = [plan for plan in plans if plan.seed <= options.seeds]
        measure_missing(wanted, prepared, find, measure, _describe, options.minutes)
    found = _collect(plans, prepared)
    if not found:
        print("Nothing is measured yet.")
        return 0
    title = f"{pair.teacher}, {pair.teacher_layers} layers, to {pair.student_layers} of them"
    (precision,) = {setting.precision for _, setting in prepared.values()}
    finish(found, title, precision, options, None if _is_trial(options) else options.page or PAGE)
    return 0


def _is_trial(options: argparse.Namespace) -> bool:
    return bool(options.trial or options.change)


def _arms(options: argparse.Namespace) -> tuple[str, ...]:
    """In the order of the table."""
    return tuple(arm for arm in ARMS if arm in (options.arms or DEFAULT_ARMS[options.pair]))


def _default_datasets(options: argparse.Namespace) -> list[str]:
    return [*(PAPER_RETENTION if options.pair == PAPER else DATASETS)]


def _datasets(options: argparse.Namespace) -> list[str]:
    """In the order of the tables."""
    usual = _default_datasets(options)
    return in_order(options.dataset or usual, usual)


def _default_sizes(options: argparse.Namespace) -> list[str]:
    return ["all"] if options.pair == PAPER else [*SIZES]


def _sizes(options: argparse.Namespace) -> list[str]:
    """In the order of the tables."""
    return [size for size in SIZES if size in (options.size or _default_sizes(options))]


def _section(options: argparse.Namespace) -> Section:
    """Each pair of models, device, budget and choice of sizes, arms and datasets has a section of its own, and so have
    cells beside each other."""
    section = Section(TITLE, "bench-quality")
    if options.pair != "minilm":
        section = Section(f"{TITLE}: {options.pair}", f"{section.command} PAIR={options.pair}")
    if options.epochs != EPOCHS:
        section = section.but(f"{options.epochs:g} epochs", f"EPOCHS={options.epochs:g}")
    if (sizes := _sizes(options)) != _default_sizes(options):
        section = section.but(listed([size_name(SIZES[size]) for size in sizes]), f"SIZE={','.join(sizes)}")
    if (arms := _arms(options)) != DEFAULT_ARMS[options.pair]:
        section = section.but(f"{len(arms)} of its arms", f"ARMS={','.join(arms)}")
    if (first := options.first_seed) > 1:
        section = section.but(f"seeds {first} to {options.seeds}", f"FIRST_SEED={first} SEEDS={options.seeds}")
    else:
        section = section.but_with(options.seeds, SEEDS, "seeds")
    section = section.but_on(_datasets(options), _default_datasets(options))
    if options.device != "cpu":
        section = section.but("on a GPU", f"DEVICE={options.device}")
    return section.but_at_once(options.at_once)


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
    precision: str,
    options: argparse.Namespace,
    page: Path | None,
) -> None:
    """Print what there is by now, and write it to `page` if there is one."""
    head = introduction(
        pair,
        options.epochs,
        _arms(options),
        Sage(**dict(options.change)),
        precision,
        machine.describe(options.device),
        are_timed=options.at_once == 1,
        is_trial=_is_trial(options),
    )
    text = "\n".join(report(found, head, is_trial=_is_trial(options), at_papers_size=options.pair == PAPER))
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
        return name, value


def _check_change(parser: argparse.ArgumentParser, change: list[tuple[str, Any]]) -> None:
    """End with a message where it is none of SAGE: before anything is measured."""
    try:
        Sage(**dict(change))
    except ValidationError as error:
        (problem, *_) = error.errors()
        told = problem.get("ctx", {})
        name = told.get("field") or ".".join(map(str, problem["loc"]))
        hint = f". {told['hint']}" if "hint" in told else ""
        parser.error(f"--change {name}: {problem['msg']}{hint}")


def _epochs(text: str) -> float:
    epochs = float(text)
    if not WARMUP_EPOCHS < epochs < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: the warm-up takes {WARMUP_EPOCHS:g} of them, so it takes more")
    return epochs


def _arm_names(text: str) -> list[str]:
    arms = names_of(ARMS)(text)
    if arms == [SAGE_ON_LESS]:
        raise argparse.ArgumentTypeError(f"{SAGE_ON_LESS} alone has nothing to stand beside: add {KD}")
    return arms


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    add_shared(parser)
    add_engine(parser)
    known = [name for name in datasets.SOURCES if name != datasets.DEMO]
    parser.add_argument("--dataset", type=names_of(known), help=f"of {', '.join(known)} (default: the pair's)")
    parser.add_argument("--size", type=names_of(SIZES), help=f"of {', '.join(SIZES)} (default: both; mpnet: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"the last seed (default: {SEEDS})")
    parser.add_argument("--first-seed", type=int, default=1, help="above 1: a sample of its own, beside an earlier one")
    parser.add_argument("--pair", choices=("minilm", PAPER), default="minilm", help="teacher and student")
    parser.add_argument("--epochs", type=_epochs, default=EPOCHS, help=f"the budget (default: {EPOCHS:g})")
    parser.add_argument("--arms", type=_arm_names, help=f"of {', '.join(ARMS)} (default: all; mpnet: {KD}, {SAGE})")
    parser.add_argument("--trial", action="store_true", help="judge by training rows that are held out; no page")
    parser.add_argument(
        "--change", nargs="+", action="extend", type=_change, default=[], help="a trial: parameters of SAGE, name=value"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing; write what there is")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
