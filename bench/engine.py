"""Stillhouse's engine as a run folder, and what its events say about where the time went."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from app.settings import Settings
from bench import machine
from bench.datasets import Dataset
from bench.process import Measured, run_measured
from bench.report import CHECKOUT
from bench.results import hash_files
from worker.distill.config import FORMAT_VERSION
from worker.distill.run_folder import CACHE, EVENTS, JOB, PARENT_PIPE
from worker.uploads import KEEP_CHECKPOINTS

# The engine's phases, in the words that the peers' programs use; "start" and "exit" are added around them.
PHASES = {
    "preparing": "load",
    "teacher_outputs": "teacher pass",
    "training": "training",
    "evaluating": "evaluation",
    "exporting": "export",
}


@dataclass(frozen=True)
class Steps:
    """Seconds of an optimiser step: the median over windows of steps between two log points, and the mean."""

    median: float
    mean: float
    count: int


def source_hash() -> str:
    return hash_files((CHECKOUT / "worker" / "distill").rglob("*.py"))


def write_run(
    folder: Path,
    *,
    teacher: Path,
    teacher_sha256: str,
    dataset: Dataset,
    student_layers: int,
    training: dict[str, Any],
    method: dict[str, Any],
    combine: Sequence[dict[str, Any]] = (),
    tuning: dict[str, Any] | None,
    threads: int,
    cache: Path | None = None,
) -> None:
    """A run folder for `python -m worker.distill`; inputs are links, as they are read only.

    Runs that are given the same `cache` find in it what an earlier one computed, as jobs of one service do.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "teacher").symlink_to(teacher.resolve())
    (folder / "dataset").symlink_to(dataset.folder.resolve())
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        (folder / CACHE).symlink_to(cache.resolve())
    job = {
        "format_version": FORMAT_VERSION,
        "job_id": "job_bench",
        "teacher": {"path": "teacher", "sha256": teacher_sha256},
        "dataset": {"path": "dataset", "sha256": dataset.sha256},
        "student": {
            "layers": student_layers,
            "hidden_size": "same",
            "init": "teacher_layers",
            "word_vectors": "trained",
        },
        "method": method,
        "combine": list(combine),
        "baselines": [],
        "training": {"max_length": dataset.max_length, "deterministic": False, **training},
        "teacher_tuning": tuning,
        "threads": threads,
        "checkpoint": {"every_seconds": Settings().checkpoint_seconds, "keep": KEEP_CHECKPOINTS},
    }
    (folder / JOB).write_text(json.dumps(job, indent=1))


def run(folder: Path, *, with_children: bool = False, device: str = "cpu") -> tuple[Measured, list[dict[str, Any]]]:
    """Run the folder's job to its end; its events as they stand in events.jsonl.

    The engine leaves with this process, for the next one would begin the same job in the same folder.
    """
    command = [sys.executable, "-m", "worker.distill", str(folder)]
    log = folder / "engine.log"
    environment = machine.environment(device) | {PARENT_PIPE: "1"}
    measured = run_measured(command, log=log, environment=environment, cwd=CHECKOUT, with_children=with_children)
    return measured, [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]


def phase_seconds(events: list[dict[str, Any]], measured: Measured) -> dict[str, float]:
    """Seconds of each phase; "start" is launch to the first event, "exit" the last event to the end of the process."""
    phases = [(_time(event), event["phase"]) for event in events if event["type"] == "phase"]
    end = measured.started_at + measured.seconds
    done = _time(events[-1])
    seconds = {"start": phases[0][0] - measured.started_at}
    for (began, name), (ended, _) in pairwise([*phases, (done, "")]):
        name = PHASES.get(name, name)
        seconds[name] = seconds.get(name, 0.0) + ended - began
    seconds["exit"] = max(0.0, end - done)
    return seconds


def seconds_until(phase: str, events: list[dict[str, Any]], measured: Measured) -> float:
    """From launch to the begin of `phase`."""
    began = next(_time(event) for event in events if event["type"] == "phase" and event["phase"] == phase)
    return began - measured.started_at


def student_steps(events: list[dict[str, Any]]) -> Steps:
    """From the log points of the student's loss; what lies between two rounds (validation) is no step."""
    windows: list[tuple[float, int]] = []
    last: tuple[float, int] | None = None
    count = 0
    for event in events:
        if event["type"] == "metric" and event["series"] == "student/train_loss":
            count = event["step"]
            point = (_time(event), count)
            if last is not None:
                windows.append((point[0] - last[0], point[1] - last[1]))
            last = point
        elif event["type"] in ("phase", "round"):
            last = None
    if not windows:
        # Fewer steps than two log points are apart.
        training = [_time(event) for event in events if event["type"] == "phase" and event["phase"] == "training"]
        ended = next(_time(event) for event in events if event["type"] == "round")
        windows = [(ended - training[0], max(1, count))]
    mean = sum(seconds for seconds, _ in windows) / sum(steps for _, steps in windows)
    return Steps(median(seconds / steps for seconds, steps in windows), mean, count)


def test_accuracy(events: list[dict[str, Any]]) -> float:
    student = events[-1]["result"]["student"]
    return float((student["test"] or student["validation"])["accuracy"])


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
