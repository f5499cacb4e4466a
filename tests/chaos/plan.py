"""What a run will do, drawn from its seed: the jobs, and what their clients do with them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

ENCODER, CLASSIFIER = "encoder", "classifier"


@dataclass(frozen=True)
class Spec:
    """A job's body without its ids. Two jobs of one spec end with the same student."""

    name: str
    teacher: str  # ENCODER needs tuning, CLASSIFIER none
    body: dict[str, Any] = field(hash=False)


class Intent(StrEnum):
    """What a client wants of its job."""

    RUN = "run"
    CANCEL = "cancel"
    PAUSE = "pause, resume"
    LIMIT = "time limit"
    # Its engine is killed each time, until the service gives it up.
    DOOM = "killed each time"
    DOOM_RETRY = "killed each time, retry"
    CANCEL_RETRY = "cancel, retry"
    DELETE = "delete when over"


class Moment(StrEnum):
    """When the client acts."""

    POSTED = "posted"
    RUNNING = "running"
    CHECKPOINT = "checkpoint"
    LATE = "late"


@dataclass(frozen=True)
class PlannedJob:
    number: int
    key: str  # the Idempotency-Key; also a label of the job
    spec: Spec
    intent: Intent
    moment: Moment
    seed: int  # of the client's own pauses


TIME_LIMIT_SECONDS = 3.0  # less than an engine needs to start

_TRAINING = {"batch_size": 16, "learning_rate": 3e-3, "precision": "fp32"}
_TUNING = {"epochs": 8, "batch_size": 16, "learning_rate": 3e-3}
_SAGE = {"type": "sage", "rounds": 2, "warmup_epochs": 1.0, "neighbors": 5, "early_stopping": False}


def _spec(
    name: str,
    method: dict[str, Any],
    *,
    seed: int,
    epochs: int = 24,
    teacher: str = ENCODER,
    tuning_seed: int = 7,
    max_length: int = 16,
    baselines: Sequence[str] = (),
) -> Spec:
    body = {
        "student": {"layers": 2},
        "method": method,
        "training": {**_TRAINING, "epochs": epochs, "max_length": max_length, "seed": seed},
        "teacher_tuning": {**_TUNING, "seed": tuning_seed} if teacher == ENCODER else None,
        "baselines": [*baselines],
    }
    return Spec(name, teacher, body)


SPECS = [
    _spec("sage", _SAGE, seed=11, epochs=12),
    # Another length, so a projection of its own.
    _spec("sage with a baseline", _SAGE, seed=12, epochs=8, max_length=12, baselines=["fine_tune"]),
    _spec("kd", {"type": "kd"}, seed=21),
    _spec("kd, tuning of its own", {"type": "kd"}, seed=22, tuning_seed=22),
    _spec("kd, classifier", {"type": "kd", "temperature": 4.0}, seed=23, teacher=CLASSIFIER),
    _spec("fine_tune", {"type": "fine_tune"}, seed=31, epochs=30),
    _spec("fine_tune, classifier", {"type": "fine_tune"}, seed=32, teacher=CLASSIFIER),
]
# No projection and no tuning: seconds beside the engine's start.
QUICK_SPECS = [spec for spec in SPECS if spec.teacher == CLASSIFIER]

# Each of them is among the first jobs; afterwards they are drawn, most of them to be left alone.
_DRAWN = {
    Intent.RUN: 8,
    Intent.CANCEL: 3,
    Intent.PAUSE: 3,
    Intent.LIMIT: 1,
    Intent.DOOM: 1,
    Intent.DOOM_RETRY: 1,
    Intent.CANCEL_RETRY: 2,
    Intent.DELETE: 1,
}


def plan_jobs(seed: int, specs: Sequence[Spec], intents: Sequence[Intent]) -> Iterator[PlannedJob]:
    """Jobs without end, the same for the same arguments. The first ones cover every spec and every intent."""
    chance = random.Random(f"jobs {seed}")
    mandatory = [*intents]
    chance.shuffle(mandatory)
    number = 0
    while True:
        for spec in chance.sample(specs, len(specs)):
            number += 1
            drawn = chance.choices([*_DRAWN], [*_DRAWN.values()])[0]
            # Every other job of the beginning is left alone.
            intent = mandatory.pop() if mandatory and number % 2 else drawn if drawn in intents else Intent.RUN
            yield PlannedJob(
                number=number,
                key=f"chaos-{seed}-{number}",
                spec=spec,
                intent=intent,
                moment=chance.choice([*Moment]),
                seed=chance.randrange(2**32),
            )
