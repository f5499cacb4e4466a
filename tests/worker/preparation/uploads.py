"""Uploads of every format from a few rows, and the bench that prepares them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.preparation.datasets import PreparedDataset, prepare_dataset
from worker.preparation.errors import PreparationFailed
from worker.preparation.lines import Upload

ROWS = [(f"{word} number {number}", label) for number in range(10) for word, label in (("buy", "b"), ("sell", "a"))]


def csv_bytes(rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label"), delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def json_bytes(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_bytes(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


class Bench:
    """Writes uploads into the test's folder and prepares them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepared = folder / "prepared"

    def prepare(self, files: dict[str, bytes], **options: Any) -> PreparedDataset:
        uploads = []
        for name, content in files.items():
            path = self.folder / f"upload-{name}"
            path.write_bytes(content)
            uploads.append(Upload(name.split(".")[0], name, path))
        return prepare_dataset(uploads, self.prepared, **options)

    def fail(self, files: dict[str, bytes], **options: Any) -> PreparationFailed:
        with pytest.raises(PreparationFailed) as caught:
            self.prepare(files, **options)
        return caught.value

    def rows(self, split: str) -> list[dict[str, Any]]:
        return list(pq.read_table(self.prepared / f"{split}.parquet").to_pylist())
