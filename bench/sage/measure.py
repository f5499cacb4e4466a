"""Two jobs on one teacher and one dataset: SAGE as the first, plain distillation as the second."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.schemas.methods.kd import KnowledgeDistillation
from app.schemas.methods.sage import Sage
from bench import engine, machine
from bench.datasets import Dataset
from bench.results import cell_key
from bench.sage.sizes import Size
from bench.setting import Setting


@dataclass(frozen=True)
class Job:
    """Seconds and bytes of one job."""

    seconds: float  # from launch to exit
    parts: dict[str, float]  # the engine's own account, seconds_by_part
    seconds_to_training: float  # from launch until training begins
    steps: int
    engine_bytes: int
    total_bytes: int  # of the engine and its children, at one moment
    test_accuracy: float

    @property
    def seconds_without_teacher(self) -> float:
        return self.seconds - self.parts["teacher_outputs"]


@dataclass(frozen=True)
class Pair:
    """The two jobs of one size."""

    rows: int  # of the training split
    presented: int  # rows presented to the student in each job
    started_at: float
    load_before: float
    machine: dict[str, Any]
    sage: Job
    kd: Job  # which finds the teacher's outputs in the cache


def find(size: Size, dataset: Dataset, setting: Setting) -> Pair | None:
    """The pair, if it has been measured."""
    found = setting.results.load(cell_key(_ingredients(size, dataset, setting)))
    return None if found is None else Pair(**{**found, "sage": Job(**found["sage"]), "kd": Job(**found["kd"])})


def measure(size: Size, dataset: Dataset, setting: Setting) -> Pair:
    """Run both jobs and keep what came of it."""
    work = setting.cache / "work" / f"sage-{size.name}"
    shutil.rmtree(work, ignore_errors=True)
    load = machine.load_average()
    sage, kd = _methods(size, setting)
    first, started_at = _run(work / "sage", sage, size, dataset, setting, work / "cache")
    second, _ = _run(work / "kd", kd, size, dataset, setting, work / "cache")
    pair = Pair(
        rows=dataset.rows["train"],
        presented=round(size.epochs * dataset.rows["train"]),
        started_at=started_at,
        load_before=load,
        machine=machine.facts(),
        sage=first,
        kd=second,
    )
    ingredients = _ingredients(size, dataset, setting)
    setting.results.save(cell_key(ingredients), asdict(pair), ingredients)
    shutil.rmtree(work)
    return pair


def _methods(size: Size, setting: Setting) -> list[dict[str, Any]]:
    """SAGE's entry in job.json and plain distillation's, every default filled in."""
    loss = {"temperature": setting.hyper.temperature, "alpha": setting.hyper.alpha}
    # Early stopping would end one of the two before the other.
    sage = Sage(**loss, warmup_epochs=size.warmup_epochs, early_stopping=False)
    return [sage.model_dump(), KnowledgeDistillation(**loss).model_dump()]


def _run(
    folder: Path, method: dict[str, Any], size: Size, dataset: Dataset, setting: Setting, cache: Path
) -> tuple[Job, float]:
    setting.write_run(folder, dataset, method, epochs=size.epochs, seed=1, cache=cache)
    measured, events = engine.run(folder, with_children=True)
    job = Job(
        seconds=measured.seconds,
        parts=events[-1]["result"]["seconds_by_part"],
        seconds_to_training=engine.seconds_until("training", events, measured),
        steps=max(event["step"] for event in events if event["type"] == "metric"),
        engine_bytes=measured.peak_rss_bytes,
        total_bytes=measured.peak_total_bytes,
        test_accuracy=engine.test_accuracy(events),
    )
    return job, measured.started_at


def _ingredients(size: Size, dataset: Dataset, setting: Setting) -> dict[str, Any]:
    return {
        "bench": "sage",
        "size": asdict(size),
        # With their parameters: a new default of one is another cell.
        "methods": _methods(size, setting),
        "source": engine.source_hash(),
        **setting.ingredients(dataset),
    }
