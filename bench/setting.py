"""What all cells of one comparison of Stillhouse's own methods share."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from app.schemas.methods.sage import Sage
from bench import datasets, engine, machine
from bench.bases import base_folder
from bench.datasets import Dataset
from bench.hyperparameters import Hyperparameters
from bench.models import PAIRS, Models, make_models
from bench.results import Results
from worker.machine import count_cores

# Where rows are few the seed decides less than which rows they are; these are the same for all seeds and methods.
SIZES = {"all": None, "2000": 2_000}


def size_name(rows: int | None) -> str:
    return "all rows" if rows is None else f"{rows:,} rows"


# Raise it with every change after which all methods make other students (one alone has a revision of its own): cells
# measured before are then of other methods. A hash of the sources would throw hours of measuring away for a new
# comment.
METHODS_VERSION = 1


@dataclass(frozen=True)
class Setting:
    models: Models
    hyper: Hyperparameters
    layers: int  # of the student
    precision: str
    threads: int
    cache: Path
    device: str = "cpu"
    at_once: int = 1  # cells that are measured beside each other: their times are then no figures

    @property
    def results(self) -> Results[dict[str, Any]]:
        return Results(self.cache / "results", dict)

    def ingredients(self, dataset: Dataset) -> dict[str, Any]:
        """What decides a cell on `dataset`, whichever the comparison."""
        return {
            "machine": machine.facts(self.device),
            "threads": self.threads,
            "dataset": dataset.sha256,
            "max_length": dataset.max_length,
            "teacher": self.models.teacher_sha256,
            "layers": self.layers,
            "hyperparameters": self.hyper.as_dict(),
            "precision": self.precision,
        } | ({} if self.at_once == 1 else {"at_once": self.at_once})

    def write_run(
        self,
        folder: Path,
        dataset: Dataset,
        method: dict[str, Any],
        combine: Sequence[dict[str, Any]] = (),
        *,
        epochs: float,
        seed: int,
        cache: Path | None = None,
    ) -> None:
        """A run folder of one job. Its `cache` is that of all cells, unless another is named: the teacher answers once,
        and one map serves all seeds."""
        engine.write_run(
            folder,
            teacher=self.models.teacher,
            teacher_sha256=self.models.teacher_sha256,
            dataset=dataset,
            student_layers=self.layers,
            training=self.hyper.training(epochs=epochs, precision=self.precision, seed=seed),
            method=method,
            combine=combine,
            tuning=None,
            threads=self.threads,
            cache=self.cache / "engine" if cache is None else cache,
        )


# By dataset and rows.
Prepared = dict[tuple[str, int | None], tuple[Dataset, Setting]]


def prepare(
    name: str,
    rows: int | None,
    data: Path | None,
    cache: Path,
    pair_name: str,
    device: str = "cpu",
    at_once: int = 1,
    *,
    is_trial: bool = False,
) -> tuple[Dataset, Setting]:
    """The student's rows, and the teacher tuned on all of the dataset's; in a trial neither has those held out."""
    machine.facts(device)  # that there is such a device is found before anything is made for it
    pair, cores = PAIRS[pair_name], count_cores()
    whole = datasets.prepare(name, data, cache, None, is_trial=is_trial)
    dataset = whole
    if rows is not None:
        dataset = datasets.prepare(name, data, cache, rows, splits=("train",), is_trial=is_trial)
    models = make_models(base_folder(pair, cache), pair, whole, cache, cores, device)
    return dataset, Setting(
        models,
        Hyperparameters(learning_rate=pair.learning_rate),
        pair.student_layers,
        machine.fast_precision(device),
        max(1, cores // at_once),
        cache,
        device,
        at_once,
    )


def made_by(sage: Sage) -> str:
    """What decides more than all else what SAGE's rows are."""
    return f"`lift: {sage.lift}`, `targeting: {sage.targeting}`, `candidates: {sage.candidates:g}`"


class SizedPlan(Protocol):
    """A cell of a comparison: on which dataset, and how many of its training rows."""

    @property
    def dataset(self) -> str: ...
    @property
    def rows(self) -> int | None: ...


P = TypeVar("P", bound=SizedPlan)
Found = TypeVar("Found")


def measure_missing(
    plans: Sequence[P],
    prepared: Prepared,
    find: Callable[[P, Dataset, Setting], Found | None],
    measure: Callable[[P, Dataset, Setting], Found],
    describe: Callable[[P, Found], str],
    minutes: float | None,
) -> None:
    """Every cell that is not there yet, in this order, as many at once as their setting says; none begins after so many
    `minutes`."""
    began = time.monotonic()

    def measure_one(plan: P) -> bool:
        """Whether it is left for another time."""
        dataset, setting = prepared[plan.dataset, plan.rows]
        if find(plan, dataset, setting) is not None:
            return False
        if minutes is not None and time.monotonic() - began >= 60 * minutes:
            return True
        started = time.monotonic()
        outcome = measure(plan, dataset, setting)
        print(f"{describe(plan, outcome)} ({time.monotonic() - started:.0f} s)", flush=True)
        return False

    with ThreadPoolExecutor(max(setting.at_once for _, setting in prepared.values())) as threads:
        # The first that fails is an error here, once those under way have ended.
        are_left = [*threads.map(measure_one, plans)]
    if any(are_left):
        print("The time is up; run it again to go on.", flush=True)
