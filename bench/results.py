"""Measured cells on disk: one JSON file for each system, dataset and round, under the hash of what decides it."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

Found = TypeVar("Found")


@dataclass(frozen=True)
class Cell:
    """One job, done once by one system. Seconds throughout; memory in bytes."""

    system: str
    dataset: str
    round: int
    seconds: float
    phases: dict[str, float]
    step_seconds_median: float
    step_seconds_mean: float
    steps: int
    test_accuracy: float
    peak_rss_bytes: int
    started_at: float
    load_before: float
    load_after: float
    machine: dict[str, Any]
    packages: dict[str, str]
    # Of Stillhouse only: the machine's matmul rates beside the run (see matmul.py).
    matmul: dict[str, Any] | None = None


class Results(Generic[Found]):
    """Cells of dataclass `kind`, or of plain dicts."""

    def __init__(self, folder: Path, kind: type[Found]) -> None:
        self._folder = folder
        self._kind = kind

    def load(self, key: str) -> Found | None:
        path = self._folder / f"{key}.json"
        if not path.exists():
            return None
        return self._kind(**json.loads(path.read_text())["cell"])

    def save(
        self, key: str, cell: Found, ingredients: Mapping[str, Any], measured: Mapping[str, Any] | None = None
    ) -> None:
        """`ingredients` are kept beside the cell for whoever asks what it stands for, and so is how it was `measured`,
        where the cell itself does not tell."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{key}.partial"
        content = cell if isinstance(cell, dict) else vars(cell)
        kept = {"cell": content, "of": ingredients} | ({} if measured is None else {"measured": measured})
        temporary.write_text(json.dumps(kept, indent=1, sort_keys=True))
        os.replace(temporary, self._folder / f"{key}.json")


def cell_key(ingredients: Mapping[str, Any]) -> str:
    """A hash of everything that decides a cell; the order of the mapping's keys is of no consequence."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:24]


def hash_files(files: Iterable[Path]) -> str:
    """One hash over names and contents, whatever the order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
