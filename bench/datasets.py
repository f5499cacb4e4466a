"""The data of the comparison, prepared as the worker prepares an upload.

Of each dataset `max_length` is the smallest power of two that holds more than 99 rows of 100 uncut: it is also what a
system that pads every row to the full length pads to.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

from app.seeds import demo_dataset_files
from bench.flops import TokenCounts
from bench.results import cell_key, hash_files
from worker.preparation.datasets import prepare_dataset
from worker.preparation.lines import Upload

DATA_VARIABLE = "STILLHOUSE_BENCH_DATA"
DEMO = "demo"
# Of the training rows so many are held out for trials, or this share of them where that is less.
HELD_OUT_ROWS, HELD_OUT_SHARE = 3_000, 0.4


@dataclass(frozen=True)
class Source:
    """A dataset and its files in the data folder, by split."""

    name: str
    max_length: int
    files: dict[str, str]
    note: str = ""


_NO_TEST_LABELS = (
    "it has no labelled test split, so its validation split is the test here, and the rows for validation are taken "
    "out of the training rows"
)
SOURCES = {
    source.name: source
    for source in (
        Source("sst2_sentences", 64, {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}),
        Source("clinc150", 32, {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}),
        Source("qnli_10k", 128, {"train": "train.jsonl.gz", "test": "dev.jsonl"}, _NO_TEST_LABELS),
        Source("sst2_glue", 64, {"train": "train.jsonl.gz", "test": "dev.jsonl"}, _NO_TEST_LABELS),
        Source("mrpc", 128, {"train": "train.jsonl.gz", "validation": "dev.jsonl", "test": "test.jsonl"}),
        Source(DEMO, 32, {}, "the part of CLINC150 that Stillhouse ships"),
    )
}
FULL = ("sst2_sentences", "clinc150", "qnli_10k")


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset folder."""

    name: str
    folder: Path
    max_length: int
    sha256: str
    labels: int
    rows: dict[str, int]
    note: str


def missing_files(name: str, data: Path | None) -> str | None:
    """What to do before `name` can be prepared, or None."""
    source = SOURCES[name]
    if name == DEMO:
        return None
    if data is None:
        return (
            f"{name} is not shipped: name a folder that holds {name}/ with {', '.join(source.files.values())} by "
            f"--data or {DATA_VARIABLE}, or take --dataset {DEMO}."
        )
    absent = [file for file in source.files.values() if not (data / name / file).exists()]
    return (
        f"{data / name} lacks {', '.join(absent)} (JSON lines with text, or text_a and text_b, and label)."
        if absent
        else None
    )


def prepare(
    name: str,
    data: Path | None,
    cache: Path,
    rows: int | None,
    splits: Collection[str] | None = None,
    *,
    is_trial: bool = False,
) -> Dataset:
    """The prepared dataset, from the cache where it is there; at most `rows` rows, evenly drawn, of each of `splits`
    (None: all).

    In a trial its test split is not the dataset's, but training rows that have been held out.
    """
    source = SOURCES[name]
    files = demo_dataset_files() if name == DEMO else {}
    if data is not None:
        files = files or {split: data / name / file for split, file in source.files.items()}
    ingredients: dict[str, Any] = {"files": hash_files(files.values()), "splits": sorted(files), "rows": rows}
    if splits is not None:
        ingredients["shortened"] = sorted(splits)
    if is_trial:
        ingredients["held_out"] = [HELD_OUT_ROWS, HELD_OUT_SHARE]
    key = cell_key(ingredients)
    folder = cache / "data" / f"{name}-{key[:12]}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        prepare_dataset([Upload(split, path.name, path) for split, path in files.items()], partial)
        if is_trial:
            _hold_out(partial)
        if rows is not None:
            _shorten(partial, rows, splits)
        partial.rename(folder)
    return open_dataset(folder, name, source.max_length, source.note)


def open_dataset(folder: Path, name: str, max_length: int, note: str = "") -> Dataset:
    summary = _summary(folder)
    return Dataset(name, folder, max_length, summary["sha256"], len(summary["labels"]), summary["rows"], note)


def count_tokens(dataset: Dataset, tokenizer_folder: Path) -> TokenCounts:
    """Real tokens of the training split, cut at the dataset's max_length."""
    from transformers import AutoTokenizer

    columns = parquet.read_table(dataset.folder / "train.parquet").to_pydict()
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
    encoded = tokenizer(columns["text"], columns.get("text_pair"), truncation=True, max_length=dataset.max_length)
    lengths = np.array([len(row) for row in encoded["input_ids"]])
    return TokenCounts(len(lengths), int(lengths.sum()), int((lengths**2).sum()))


def _hold_out(folder: Path) -> None:
    """Put training rows in the place of the test split."""
    train = parquet.read_table(folder / "train.parquet")
    count = min(HELD_OUT_ROWS, int(HELD_OUT_SHARE * len(train)))
    order = np.random.default_rng(0).permutation(len(train))
    splits = {"test": train.take(np.sort(order[:count])), "train": train.take(np.sort(order[count:]))}
    _replace(folder, splits, f"held-out-{count}")


def _shorten(folder: Path, rows: int, splits: Collection[str] | None) -> None:
    kept = {}
    for split, count in _summary(folder)["rows"].items():
        if splits is None or split in splits:
            # Evenly over the file: rows of one label may stand together.
            chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).round().astype(int))
            kept[split] = parquet.read_table(folder / f"{split}.parquet").take(chosen)
    _replace(folder, kept, str(rows))


def _replace(folder: Path, splits: Mapping[str, pyarrow.Table], mark: str) -> None:
    """Put these rows in the place of the splits'; by the `mark` the hash is another dataset's."""
    summary = _summary(folder)
    for split, table in splits.items():
        parquet.write_table(table, folder / f"{split}.parquet")
        summary["rows"][split] = len(table)
    summary["sha256"] = f"{summary['sha256']}-{mark}"
    (folder / "dataset.json").write_text(json.dumps(summary))


def _summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return found
