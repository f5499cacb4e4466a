"""`python -m bench.methods`: what each method brings and costs, alone and with SAGE, into docs/methods.md.

Every cell (a recipe, a dataset, a seed) is kept under .bench/, keyed by all that decides it, so the bench may be
stopped at any time and goes on from there: `--minutes 30` begins no cell after that. All of it takes hours on two
cores. `--quick` does everything once with a tiny model: to see that it works.
"""

import argparse
import tempfile
from pathlib import Path

from bench import datasets, machine
from bench.hyperparameters import Hyperparameters
from bench.methods.measure import Outcome, find, measure
from bench.methods.plan import DATASETS, SEEDS, Plan, Recipe, recipes
from bench.methods.tables import introduction, report
from bench.models import PAIRS
from bench.options import add_engine, add_shared, check_engine, in_order, names_of, open_cache
from bench.report import CHECKOUT, Section, write_section
from bench.setting import SIZES, Prepared, Setting, measure_missing, prepare, size_name
from bench.tiny import PAIR, make_tiny

PAGE = CHECKOUT / "docs" / "methods.md"
# A GPU, and cells beside each other, for the quality; a quiet machine for what they cost.
SECTIONS = {
    "cpu": Section("What they bring and cost", "bench-methods"),
    "cuda": Section("What they bring, on a GPU", "bench-methods DEVICE=cuda"),
}
SIZE = "2000"
Found = dict[str, dict[Recipe, dict[int, Outcome]]]


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    check_engine(parser, options)
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            tiny = _measure_tiny(Path(folder))
            finish(tiny, "A tiny random BERT", "all rows", "fp32", parser.parse_args([]), options.page)
        return 0
    names = in_order(options.dataset, DATASETS)
    if problems := [text for name in names if (text := datasets.missing_files(name, options.data))]:
        raise SystemExit("\n".join(problems))
    cache = open_cache(options.cache)
    rows, pair = SIZES[options.size], PAIRS["minilm"]
    prepared: Prepared = {}
    for name in names:
        prepared[name, rows] = prepare(name, rows, options.data, cache, pair.name, options.device, options.at_once)
    # Also of the seeds that were not asked for this time: a part of the table is not to take its place.
    plans = [
        Plan(recipe, name, rows, seed)
        for seed in range(1, max(options.seeds, SEEDS) + 1)
        for name in names
        for recipe in recipes()
    ]
    if not options.report:
        wanted = [plan for plan in plans if plan.seed <= options.seeds]
        measure_missing(wanted, prepared, find, measure, _describe, options.minutes)
    found: Found = {}
    for plan in plans:
        if (outcome := find(plan, *prepared[plan.dataset, rows])) is not None:
            found.setdefault(plan.dataset, {}).setdefault(plan.recipe, {})[plan.seed] = outcome
    if not found:
        print("Nothing is measured yet.")
        return 0
    title = f"{pair.teacher}, {pair.teacher_layers} layers, to {pair.student_layers} of them"
    (precision,) = {setting.precision for _, setting in prepared.values()}
    finish(found, title, size_name(rows), precision, options, options.page or PAGE)
    return 0


def _section(options: argparse.Namespace) -> Section:
    """Each device and choice of size and datasets has a section of its own, and so have cells beside each other."""
    section = SECTIONS[options.device]
    if options.size != SIZE:
        section = section.but(size_name(SIZES[options.size]), f"SIZE={options.size}")
    section = section.but_with(options.seeds, SEEDS, "seeds").but_on(in_order(options.dataset, DATASETS), DATASETS)
    return section.but_at_once(options.at_once)


def _describe(plan: Plan, outcome: Outcome) -> str:
    return f"{plan.dataset}, seed {plan.seed}, {plan.recipe.name}: {100 * outcome.accuracy:.2f} %"


def finish(found: Found, pair: str, rows: str, precision: str, options: argparse.Namespace, page: Path | None) -> None:
    seeds = max(len(by_seed) for measured in found.values() for by_seed in measured.values())
    head = introduction(pair, rows, seeds, precision, machine.describe(options.device))
    text = "\n".join(report(found, head))
    print(text)
    if page is not None:
        write_section(_section(options), text, page)
        print(f"\nWritten to {page}")


def _measure_tiny(folder: Path) -> Found:
    models, dataset = make_tiny(folder, train_rows=160)
    setting = Setting(models, Hyperparameters(learning_rate=3e-3), PAIR.student_layers, "fp32", 1, folder)
    wanted = [recipe for recipe in recipes() if recipe.name in ("kd", "kd + opdf", "sage + taid")]
    return {"tiny": {recipe: {1: measure(Plan(recipe, "tiny", None, 1), dataset, setting)} for recipe in wanted}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.methods", description=__doc__)
    add_shared(parser)
    add_engine(parser)
    parser.add_argument("--dataset", type=names_of(DATASETS), default=list(DATASETS), help=f"of {', '.join(DATASETS)}")
    parser.add_argument("--size", choices=sorted(SIZES), default=SIZE, help=f"training rows (default: {SIZE})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds 1 to so many (default: {SEEDS})")
    parser.add_argument("--report", action="store_true", help="measure nothing; write what there is")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
