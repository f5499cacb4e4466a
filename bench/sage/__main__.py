"""`python -m bench.sage`: what SAGE costs beside plain distillation, at three sizes, into docs/benchmarks.md.

A size that is done is kept under .bench/, keyed by all that decides it. All three take about an hour on two cores;
some of them alone have a section of their own.
`--quick` does everything once with a tiny model: to see that it works, and not to measure.
"""

import argparse
import tempfile
from collections.abc import Collection
from pathlib import Path

from bench import datasets, machine
from bench.bases import base_folder
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS, make_models
from bench.options import add_shared, names_of, open_cache
from bench.report import PAGE, Section, listed, write_section
from bench.sage import sizes
from bench.sage.measure import Pair, find, measure
from bench.sage.sizes import SIZES, Size
from bench.sage.tables import report
from bench.setting import Setting
from bench.tiny import PAIR, make_tiny
from worker.machine import count_cores

TITLE = "What SAGE costs beside plain distillation"


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as folder:
            finish([_measure_tiny(Path(folder))], "fp32", _section([*SIZES]), options.page)
        return 0
    wanted = [size for name, size in SIZES.items() if name in options.size]
    if problems := sizes.missing_files(wanted, options.data):
        raise SystemExit("\n".join(problems))
    cache = open_cache(options.cache)
    threads, pair = count_cores(), PAIRS["minilm"]
    tuned_on = datasets.prepare(sizes.TUNED_ON, options.data, cache, None)
    models = make_models(base_folder(pair, cache), pair, tuned_on, cache, threads)
    setting = Setting(models, Hyperparameters(), pair.student_layers, machine.fast_precision(), threads, cache)
    pairs = []
    for size in wanted:
        dataset = sizes.prepare(size, options.data, cache)
        print(f"{size.name}: {dataset.rows['train']:,} rows ...", flush=True)
        pairs.append(find(size, dataset, setting) or measure(size, dataset, setting))
    finish(pairs, setting.precision, _section(options.size), options.page or PAGE)
    return 0


def _section(wanted: Collection[str]) -> Section:
    """Some sizes alone have a section of their own: they are not to take the place of the table of all."""
    section = Section(TITLE, "bench-sage")
    names = [name for name in SIZES if name in wanted]
    return section if names == [*SIZES] else section.but(listed(names), f"SIZE={','.join(names)}")


def finish(pairs: list[Pair], precision: str, section: Section, page: Path | None) -> None:
    text = "\n".join(report(pairs, precision))
    print(text)
    if page is not None:
        write_section(section, text, page)
        print(f"\nWritten to {page}")


def _measure_tiny(folder: Path) -> Pair:
    models, dataset = make_tiny(folder, train_rows=320)
    setting = Setting(models, Hyperparameters(learning_rate=3e-3), PAIR.student_layers, "fp32", 1, folder)
    size = Size("tiny", "tiny", rows=None, epochs=3.0, warmup_epochs=1.0)
    return measure(size, dataset, setting)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.sage", description=__doc__)
    add_shared(parser)
    parser.add_argument("--size", type=names_of(SIZES), default=list(SIZES), help=f"of {', '.join(SIZES)}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
