"""What all cells of one comparison of Stillhouse's own methods share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.datasets import Dataset
from bench.hyperparameters import Hyperparameters
from bench.models import Models
from bench.results import Results


@dataclass(frozen=True)
class Setting:
    models: Models
    hyper: Hyperparameters
    layers: int  # of the student
    precision: str
    threads: int
    cache: Path

    @property
    def results(self) -> Results[dict[str, Any]]:
        return Results(self.cache / "results", dict)

    def ingredients(self, dataset: Dataset) -> dict[str, Any]:
        """What decides a cell on `dataset`, whichever the comparison."""
        return {
            "machine": machine.facts(),
            "threads": self.threads,
            "dataset": dataset.sha256,
            "max_length": dataset.max_length,
            "teacher": self.models.teacher_sha256,
            "layers": self.layers,
            "hyperparameters": self.hyper.as_dict(),
            "precision": self.precision,
        }
