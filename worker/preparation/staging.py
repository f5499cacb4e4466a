"""The first pass over an upload: every row checked, written aside, and summed up in a few arrays.

A million rows cost their texts on disk and some 16 bytes each in memory; the second pass knows all
labels and which rows go where.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.preparation.columns import Columns
from worker.preparation.errors import PreparationFailed, Tick
from worker.preparation.lines import Upload
from worker.preparation.tables import Table
from worker.preparation.values import label_value, text_value

# What is held at a time, and written as one row group: so many rows, or fewer where their texts are long.
BATCH_ROWS = 4096
BATCH_CHARACTERS = 8 * 1024 * 1024
MAX_LABELS = 10_000
# So many lines or rows are named by a message.
EXAMPLES = 5

STAGED = pa.schema([("text", pa.string()), ("text_pair", pa.string()), ("label", pa.int32())])


@dataclass
class StagedSplit:
    """What is known of one upload after its rows were read."""

    upload: Upload
    path: Path
    unit: str
    rows_seen: int = 0
    empty_rows: int = 0
    empty_pairs: int = 0  # rows among them whose second text is empty
    first_empty: list[int] = field(default_factory=list)  # lines or rows, at most EXAMPLES
    label_codes: "array[int]" = field(default_factory=lambda: array("i"))  # one per labelled row, first-seen order
    fingerprints: "array[int]" = field(default_factory=lambda: array("Q"))  # one per kept row, of its texts
    kept_places: "array[int]" = field(default_factory=lambda: array("i"))  # one per kept row, its line or row
    label_places: dict[int, int] = field(default_factory=dict)  # label code -> where it was first seen

    @property
    def rows(self) -> int:
        return len(self.fingerprints)

    def codes(self) -> np.ndarray:
        return np.frombuffer(self.label_codes, dtype=np.int32)

    def texts(self) -> np.ndarray:
        return np.frombuffer(self.fingerprints, dtype=np.uint64)

    def places(self) -> np.ndarray:
        return np.frombuffer(self.kept_places, dtype=np.int32)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As they were written: one for each row group."""
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches()


def stage_split(
    upload: Upload, table: Table, columns: Columns, *, label_codes: dict[str, int], path: Path, tick: Tick
) -> StagedSplit:
    """Read every row of `table` into the Parquet file `path`; new labels are added to `label_codes`.

    Where `columns` have no label, neither have the rows: theirs is null.
    """
    staged = StagedSplit(upload, path, table.unit)
    texts: list[str] = []
    pairs: list[str | None] = []
    codes: list[int | None] = []
    characters = 0

    with pq.ParquetWriter(path, STAGED) as writer:

        def flush() -> None:
            nonlocal characters
            if texts:
                writer.write_batch(pa.record_batch([texts, pairs, pa.array(codes, pa.int32())], schema=STAGED))
            texts.clear()
            pairs.clear()
            codes.clear()
            characters = 0
            tick()

        for number, values in table.rows(columns):
            place = f"{table.unit.capitalize()} {number} of {upload.name}"
            staged.rows_seen += 1
            text = text_value(values[0], place=place, column=columns.text)
            pair = text_value(values[1], place=place, column=columns.text_pair) if columns.text_pair else None
            label = label_value(values[-1], place=place, column=columns.label) if columns.label else None
            lacks_pair = pair is not None and not pair.strip()
            staged.empty_pairs += lacks_pair
            if not text.strip() or label == "" or lacks_pair:
                staged.empty_rows += 1
                if len(staged.first_empty) < EXAMPLES:
                    staged.first_empty.append(number)
                continue
            code = None
            if label is not None:
                code = label_codes.setdefault(label, len(label_codes))
                if code >= MAX_LABELS:
                    raise PreparationFailed(
                        "dataset_too_many_labels",
                        f"{place}: more than {MAX_LABELS} different labels up to here. "
                        f"Check that {columns.label!r} is the label column.",
                    )
                staged.label_places.setdefault(code, number)
                staged.label_codes.append(code)
            staged.fingerprints.append(_fingerprint(text, pair))
            staged.kept_places.append(number)
            texts.append(text)
            pairs.append(pair)
            codes.append(code)
            characters += len(text) + len(pair or "")
            if len(texts) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
                flush()
        flush()
    return staged


def _fingerprint(text: str, pair: str | None) -> int:
    """64 bits of the row's texts: equal texts are found by it, and a rare collision only costs a warning."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=8)
    if pair is not None:
        digest.update(b"\0" + pair.strip().encode())
    return int.from_bytes(digest.digest(), "little")
