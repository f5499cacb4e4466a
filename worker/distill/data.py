"""The prepared dataset as token ids: three splits, each one flat array with offsets.

A flat array costs what the tokens cost: no padding is stored and no Python object stands per row, so a
million rows fit. The folder's format is the worker's preparation's (parquet and dataset.json).
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from worker.distill.config import DATASET_FORMAT_VERSION, UNLABELLED_FORMAT_VERSION
from worker.distill.errors import InvalidJob

SPLITS = ("train", "validation", "test")
NO_LABEL = -1
_TOKENISER_BATCH_ROWS = 2_000
_EXAMPLES = 50


@dataclass(frozen=True)
class Split:
    """Rows of one split; row i holds tokens offsets[i]..offsets[i+1]."""

    ids: np.ndarray  # (tokens,) int32
    segments: np.ndarray  # (tokens,) int8
    is_special: np.ndarray  # (tokens,) bool: [CLS], [SEP]
    offsets: np.ndarray  # (rows + 1,) int64
    labels: np.ndarray  # (rows,) int64; NO_LABEL where there is none, which rows come last

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property  # every step asks
    def lengths(self) -> np.ndarray:
        """(rows,) tokens in each row."""
        return np.diff(self.offsets)

    @functools.cached_property
    def words(self) -> np.ndarray:
        """(rows,) ordinary tokens in each row: all but the special ones."""
        return np.add.reduceat(~self.is_special, self.offsets[:-1], dtype=np.int64)

    @functools.cached_property
    def has_label(self) -> np.ndarray:
        """(rows,) bool."""
        return np.asarray(self.labels != NO_LABEL)

    @functools.cached_property
    def labelled(self) -> "Split":
        """Its rows that have a label, under the same numbers."""
        rows = int(np.count_nonzero(self.has_label))
        if rows == len(self):
            return self
        tokens = self.offsets[rows]
        return Split(
            ids=self.ids[:tokens],
            segments=self.segments[:tokens],
            is_special=self.is_special[:tokens],
            offsets=self.offsets[: rows + 1],
            labels=self.labels[:rows],
        )

    def place(self, name: str, row: int) -> str:
        """Where that row of the split called `name` stands in the prepared dataset, for a message."""
        behind = row - len(self.labelled)
        return f"row {row} of {name}" if behind < 0 else f"row {behind} of unlabelled"

    def rows_with(self, token: int) -> np.ndarray:
        """The rows in which the token stands, ascending."""
        return np.unique(np.searchsorted(self.offsets, np.flatnonzero(self.ids == token), side="right") - 1)


@dataclass(frozen=True)
class Dataset:
    labels: list[str]
    has_pairs: bool
    splits: dict[str, Split]
    examples: dict[str, list[tuple[str, ...]]]  # the first texts (or pairs) of each split, to time the student on
    tokens_sha256: str  # of what the tokenizer made of all texts: its next release may make something else of them

    @property
    def train(self) -> Split:
        return self.splits["train"]


def load_dataset(folder: Path, tokenizer: Any, max_length: int) -> Dataset:
    """Tokenise every split that the prepared `folder` has, cutting rows at `max_length` tokens.

    Its unlabelled rows stand behind those of the training split, as a part of it.
    """
    try:
        summary = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidJob(f"{folder} holds no dataset.json: it is not a prepared dataset.") from None
    if summary["format_version"] not in (DATASET_FORMAT_VERSION, UNLABELLED_FORMAT_VERSION):
        raise InvalidJob(
            f"the dataset was prepared in format {summary['format_version']}, and this engine reads "
            f"{DATASET_FORMAT_VERSION} and {UNLABELLED_FORMAT_VERSION}: upload it again, or run the release that "
            "prepared it."
        )
    splits, examples = {}, {}
    for name in SPLITS:
        file = folder / f"{name}.parquet"
        if file.exists():
            splits[name], examples[name] = _load_split(file, tokenizer, max_length)
    if summary["format_version"] == UNLABELLED_FORMAT_VERSION:
        unlabelled, _ = _load_split(folder / "unlabelled.parquet", tokenizer, max_length)
        splits["train"] = _joined(splits["train"], unlabelled)
    return Dataset(summary["labels"], summary["has_pairs"], splits, examples, _tokens_sha256(splits))


def _load_split(file: Path, tokenizer: Any, max_length: int) -> tuple[Split, list[tuple[str, ...]]]:
    ids, segments, special, lengths, labels = [], [], [], [], []
    examples: list[tuple[str, ...]] = []
    for columns in _batches(file):
        encoded = tokenizer(
            columns["text"],
            columns.get("text_pair"),
            truncation=True,
            max_length=max_length,
            return_token_type_ids=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
        )
        ids.append(_flat(encoded["input_ids"], np.int32))
        segments.append(_flat(encoded["token_type_ids"], np.int8))
        special.append(_flat(encoded["special_tokens_mask"], bool))
        lengths += [len(row) for row in encoded["input_ids"]]
        labels.append(np.asarray(columns.get("label", [NO_LABEL] * len(columns["text"])), np.int64))
        if len(examples) < _EXAMPLES:
            texts = [columns[name] for name in ("text", "text_pair") if name in columns]
            examples += list(zip(*texts, strict=True))[: _EXAMPLES - len(examples)]
    split = Split(
        ids=np.concatenate(ids),
        segments=np.concatenate(segments),
        is_special=np.concatenate(special),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.concatenate(labels),
    )
    return split, examples


def _joined(first: Split, second: Split) -> Split:
    """The rows of both, one after the other."""
    return Split(
        ids=np.concatenate([first.ids, second.ids]),
        segments=np.concatenate([first.segments, second.segments]),
        is_special=np.concatenate([first.is_special, second.is_special]),
        offsets=np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]),
        labels=np.concatenate([first.labels, second.labels]),
    )


def _tokens_sha256(splits: dict[str, Split]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        for array in (split.ids, split.segments, split.is_special, split.offsets):
            digest.update(f"{name} {array.dtype} {len(array)}".encode())
            digest.update(array.data)
    return digest.hexdigest()


def _batches(file: Path) -> Iterator[dict[str, list[Any]]]:
    """The file's rows by column, from one row group at a time: preparation makes those small where texts are long."""
    with parquet.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            for batch in opened.read_row_group(group).to_batches(max_chunksize=_TOKENISER_BATCH_ROWS):
                yield batch.to_pydict()


def _flat(rows: list[list[int]], dtype: type) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype)
