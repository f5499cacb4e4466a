"""Uploads in, a prepared dataset folder out: `prepare_dataset` is the whole path, top to bottom."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.distill.config import DATASET_FORMAT_VERSION, UNLABELLED_FORMAT_VERSION
from worker.preparation.checks import (
    check_classes,
    check_labels_seen,
    check_rows,
    duplicate_warnings,
    learnt_warnings,
    repeated_warnings,
)
from worker.preparation.columns import Columns, check_columns, choose_columns
from worker.preparation.errors import Tick, no_tick
from worker.preparation.lines import Upload
from worker.preparation.splits import validation_mask
from worker.preparation.staging import StagedSplit, stage_split
from worker.preparation.tables import open_table

SPLITS = ("train", "validation", "test")
# Rows of texts alone: the student learns from them with the training rows, and only the teacher says what they are.
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class PreparedDataset:
    """A folder with train.parquet, validation.parquet, perhaps test.parquet and unlabelled.parquet, and
    dataset.json."""

    columns: Columns
    labels: list[str]
    rows: dict[str, int]
    validation_made: bool
    sha256: str
    warnings: list[str]


def prepare_dataset(
    uploads: Sequence[Upload],
    folder: Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    max_bytes: int = 64 * 1024**3,
    tick: Tick = no_tick,
) -> PreparedDataset:
    """Check every row of the uploads (train, perhaps validation, test and unlabelled) and write the prepared folder.

    Raises PreparationFailed with a code and a sentence for a person. `max_bytes` bounds what each file
    may unpack to. `tick` is called while rows are read and written, and what it raises ends the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uploads = sorted(uploads, key=lambda upload: (*SPLITS, UNLABELLED).index(upload.split))
    codes: dict[str, int] = {}
    splits: dict[str, StagedSplit] = {}
    columns: Columns | None = None
    warnings: list[str] = []
    for upload in uploads:
        table = open_table(upload, max_bytes=max_bytes, tick=tick)
        if columns is None:
            columns = choose_columns(
                upload, table.columns, text=text_column, text_pair=text_pair_column, label=label_column
            )
        wanted = replace(columns, label=None) if upload.split == UNLABELLED else columns
        check_columns(upload, table.columns, wanted)
        staged_path = folder / f".{upload.split}.staged.parquet"
        staged = stage_split(upload, table, wanted, label_codes=codes, path=staged_path, tick=tick)
        warnings += check_rows(staged, wanted)
        splits[upload.split] = staged
    assert columns is not None, "a dataset has at least its train file"

    train, unlabelled = splits["train"], splits.get(UNLABELLED)
    names = {code: name for name, code in codes.items()}
    check_classes(train, names, split_needed="validation" not in splits)
    for other in (splits[split] for split in SPLITS[1:] if split in splits):
        check_labels_seen(train, other, names)
        for learnt in filter(None, (train, unlabelled)):
            warnings += duplicate_warnings(learnt, other)

    labels = sort_labels(list(codes))
    writer = _FolderWriter(folder, labels, codes, has_pairs=columns.text_pair is not None, tick=tick)
    validation_made = "validation" not in splits
    if validation_made:
        validation = validation_mask(train.codes(), train.texts())
        warnings += repeated_warnings(train, validation)
        if unlabelled is not None:
            warnings += learnt_warnings(unlabelled, train, validation)
        writer.write_parted(train, validation)
    else:
        writer.write("train", train)
    for split in SPLITS[1:]:
        if split in splits:
            writer.write(split, splits[split])
    if unlabelled is not None:
        writer.write(UNLABELLED, unlabelled)
    for staged in splits.values():
        staged.path.unlink()

    prepared = PreparedDataset(columns, labels, writer.rows, validation_made, writer.content_sha256(), warnings)
    (folder / "dataset.json").write_text(json.dumps(_description(prepared), indent=1), encoding="utf-8")
    return prepared


def sort_labels(names: Sequence[str]) -> list[str]:
    """Label names in order: whole numbers by value, those that end in ".0" too, anything else as text."""
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}(\.0+)?", name) for name in names):
        return sorted(names, key=lambda name: (int(name.partition(".")[0]), name))
    return sorted(names)


def _description(prepared: PreparedDataset) -> dict[str, Any]:
    return {
        "format_version": UNLABELLED_FORMAT_VERSION if UNLABELLED in prepared.rows else DATASET_FORMAT_VERSION,
        "labels": prepared.labels,
        "has_pairs": prepared.columns.text_pair is not None,
        "rows": prepared.rows,
        "validation_made": prepared.validation_made,
        "sha256": prepared.sha256,
    }


class _FolderWriter:
    """The second pass: staged rows with their final label numbers, hashed as they are written."""

    def __init__(self, folder: Path, labels: list[str], codes: dict[str, int], *, has_pairs: bool, tick: Tick) -> None:
        self._folder = folder
        self._labels = labels
        self._has_pairs = has_pairs
        self._tick = tick
        order = {name: index for index, name in enumerate(labels)}
        self._label_of_code = np.array([order[name] for name in codes], dtype=np.int32)
        self._hashes: dict[str, str] = {}
        self.rows: dict[str, int] = {}

    def write(self, split: str, staged: StagedSplit) -> None:
        self._write(split, staged, np.ones(staged.rows, dtype=bool))

    def write_parted(self, train: StagedSplit, validation: np.ndarray) -> None:
        """Write train and the validation rows taken from it."""
        self._write("train", train, ~validation)
        self._write("validation", train, validation)

    def _write(self, split: str, staged: StagedSplit, mask: np.ndarray) -> None:
        digest = hashlib.sha256()
        start = 0
        texts = ["text", "text_pair"] if self._has_pairs else ["text"]
        schema = pa.schema([(name, pa.string()) for name in texts])
        if split != UNLABELLED:
            schema = schema.append(pa.field("label", pa.int32()))
        with pq.ParquetWriter(self._folder / f"{split}.parquet", schema) as writer:
            for batch in staged.batches():
                kept = batch.filter(pa.array(mask[start : start + batch.num_rows]))
                start += batch.num_rows
                columns = [kept.column(name) for name in texts]
                if split != UNLABELLED:
                    labels = self._label_of_code[kept.column("label").to_numpy()]
                    columns.append(pa.array(labels, pa.int32()))
                writer.write_batch(pa.record_batch(columns, schema=schema))
                for row in zip(*(column.to_pylist() for column in columns), strict=True):
                    digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                self._tick()
        self.rows[split] = int(mask.sum())
        self._hashes[split] = digest.hexdigest()

    def content_sha256(self) -> str:
        """A hash of what the rows say, whatever format they came in and however Parquet stores them."""
        content = {"labels": self._labels, "has_pairs": self._has_pairs, "splits": self._hashes}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
