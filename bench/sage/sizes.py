"""The data of the comparison: one task in three sizes, and how long each is trained on."""

import gzip
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import datasets
from bench.datasets import Dataset, open_dataset
from bench.results import hash_files
from worker.preparation.datasets import prepare_dataset
from worker.preparation.lines import Upload

# One teacher for all: the sizes are of one task.
TUNED_ON = "sst2_sentences"
# Phrases of sst2_glue two by two, drawn at random: rows that are texts, and as many of them as are asked for.
PAIRS_OF_PHRASES = "sst2_glue_pairs"


@dataclass(frozen=True)
class Size:
    name: str
    dataset: str
    rows: int | None  # of the training split; None: as many as there are
    epochs: float
    warmup_epochs: float


SIZES = {
    size.name: size
    for size in (
        Size("small", "sst2_sentences", rows=None, epochs=4.0, warmup_epochs=1.0),
        Size("medium", "sst2_glue", rows=None, epochs=4.0, warmup_epochs=1.0),
        # A tenth of its rows is presented, which is more than of the small one: what is measured is the map's size.
        Size("large", PAIRS_OF_PHRASES, rows=700_000, epochs=0.1, warmup_epochs=0.025),
    )
}


def missing_files(wanted: Iterable[Size], data: Path | None) -> list[str]:
    """What to do before the teacher can be tuned and the sizes prepared."""
    names = ["sst2_glue" if size.dataset == PAIRS_OF_PHRASES else size.dataset for size in wanted]
    return [text for name in dict.fromkeys([TUNED_ON, *names]) if (text := datasets.missing_files(name, data))]


def prepare(size: Size, data: Path, cache: Path) -> Dataset:
    """The prepared dataset, from the cache where it is there."""
    if size.dataset != PAIRS_OF_PHRASES:
        return datasets.prepare(size.dataset, data, cache, size.rows)
    assert size.rows is not None
    files = {split: data / "sst2_glue" / file for split, file in datasets.SOURCES["sst2_glue"].files.items()}
    folder = cache / "data" / f"{size.dataset}-{size.rows}-{hash_files(files.values())[:12]}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        pairs = cache / "work" / "pairs.jsonl"
        pairs.parent.mkdir(parents=True, exist_ok=True)
        _write_pairs(files["train"], pairs, size.rows)
        prepare_dataset([Upload("train", pairs.name, pairs), Upload("test", "dev.jsonl", files["test"])], partial)
        pairs.unlink()
        partial.rename(folder)
    return open_dataset(folder, size.dataset, max_length=64)


def _write_pairs(source: Path, target: Path, rows: int) -> None:
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        phrases = [json.loads(line) for line in lines]
    generator = np.random.default_rng(0)
    with target.open("w", encoding="utf-8") as output:
        for first, second in generator.integers(len(phrases), size=(rows, 2)):
            text = f"{phrases[first]['text']} , {phrases[second]['text']}"
            output.write(json.dumps({"text": text, "label": phrases[first]["label"]}) + "\n")
