"""`python -m bench.sage`: what SAGE costs beside plain distillation, at three sizes, into docs/benchmarks.md.

A size that is done is kept under .bench/, keyed by all that decides it. All three take about an hour on two cores.
`--quick` does everything once with a tiny model: to see that it works, and not to measure.
"""

import argparse
import os
import tempfile
from pathlib import Path

from app.seeds import HOW_TO_GET_THE_TEACHER, demo_teacher_folder
from bench import datasets, machine
from bench.datasets import open_dataset
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS, make_models, open_models, write_student
from bench.report import CHECKOUT, PAGE, Section, write_section
from bench.sage import sizes
from bench.sage.measure import Pair, Setting, find, measure
from bench.sage.sizes import SIZES, Size
from bench.sage.tables import report
from tests.worker.distill.tiny_runs import make_run
from worker.machine import count_cores

SECTION = Section("What SAGE costs beside plain distillation", "bench-sage")


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            finish([_measure_tiny(Path(folder))], options.page)
        return 0
    wanted = [SIZES[name] for name in options.size]
    if problems := [text for size in wanted if (text := sizes.missing_files(size, options.data))]:
        raise SystemExit("\n".join(problems))
    base = demo_teacher_folder()
    if base is None:
        raise SystemExit(HOW_TO_GET_THE_TEACHER)
    cache = options.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    threads, pair = count_cores(), PAIRS["minilm"]
    # One teacher for all: the sizes are of one task.
    tuned_on = datasets.prepare("sst2_sentences", options.data, cache, None)
    models = make_models(base, pair, tuned_on, cache, threads)
    setting = Setting(models, Hyperparameters(), pair.student_layers, machine.fast_precision(), threads, cache)
    pairs = []
    for size in wanted:
        dataset = sizes.prepare(size, options.data, cache)
        print(f"{size.name}: {dataset.rows['train']:,} rows ...", flush=True)
        pairs.append(find(size, dataset, setting) or measure(size, dataset, setting))
    finish(pairs, options.page or PAGE)
    return 0


def finish(pairs: list[Pair], page: Path | None) -> None:
    text = "\n".join(report(pairs))
    print(text)
    if page is not None:
        write_section(SECTION, text, page)
        print(f"\nWritten to {page}")


def _measure_tiny(folder: Path) -> Pair:
    run = make_run(folder / "tiny", train_rows=320)
    models = folder / "models"
    models.mkdir()
    (run / "teacher").rename(models / "teacher")
    write_student(models / "teacher", models / "student", 2)
    setting = Setting(open_models(models), Hyperparameters(learning_rate=3e-3), 2, "fp32", 1, folder)
    size = Size("tiny", "tiny", rows=None, epochs=3.0, warmup_epochs=1.0)
    return measure(size, open_dataset(run / "dataset", "tiny", max_length=24), setting)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.sage", description=__doc__)
    variable = os.environ.get(datasets.DATA_VARIABLE)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(variable) if variable else None,
        help=f"folder with sst2_sentences and sst2_glue (default: ${datasets.DATA_VARIABLE})",
    )
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--page", type=Path, help=f"the page to write (default: {PAGE.relative_to(CHECKOUT)})")
    parser.add_argument("--cache", type=Path, default=CHECKOUT / ".bench", help="what is kept between runs")
    parser.add_argument("--quick", action="store_true", help="a tiny model, for correctness; writes --page only")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
