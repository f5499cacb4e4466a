"""What the outside learns of a claim while it is worked on: log context, metrics, and the trace of its job.

Durations of phases are summed up over the attempt and told at its end, under its outcome; the spans of the trace
are told one by one, so that rounds stand beside each other there.
"""

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from app import tracing
from app.domain.attempts import AttemptOutcome
from app.domain.leases import Claim
from app.logging import job_context
from app.prometheus import (
    ATTEMPT_SECONDS,
    CHECKPOINT_UPLOAD_BYTES,
    CHECKPOINT_UPLOAD_SECONDS,
    DEVICE_MEMORY_BYTES,
    DEVICE_MEMORY_TOTAL_BYTES,
    PHASE_SECONDS,
    WORK_DIR_FREE_BYTES,
    WORKER_BUSY,
)
from app.settings import Settings
from app.tracing import Span, Value

# Phases of the worker itself; the engine names its own.
FETCHING = "fetching"
STARTING = "starting"
STORING = "storing"


class Observation:
    """One claim as it is seen from outside."""

    def __init__(self, span: Span) -> None:
        # How it ended, for whoever knows; what ends without a word has failed.
        self.outcome: str = AttemptOutcome.FAILED
        self._span = span
        self._phase: str | None = None
        self._phase_span = Span()
        self._phase_began = 0.0
        self._phase_seconds: dict[str, float] = defaultdict(float)

    def enter(self, phase: str, *, round: int | None = None, at: float | None = None) -> None:
        """A phase, or a round of one, begins: now, or at that Unix time. The one before it is over."""
        now = time.time() if at is None else at
        self._leave(now)
        self._phase, self._phase_began = phase, now
        self._phase_span = tracing.begin(phase, at=now, attributes={"stillhouse.round": round})

    def device_memory(self, device: str, *, peak_bytes: int, total_bytes: int) -> None:
        DEVICE_MEMORY_BYTES.labels(device).set(peak_bytes)
        DEVICE_MEMORY_TOTAL_BYTES.labels(device).set(total_bytes)

    def close(self) -> dict[str, float]:
        """The attempt is over. Returns the seconds of each of its phases."""
        if self._phase is not None:
            self._leave(time.time())
        DEVICE_MEMORY_BYTES.clear()
        DEVICE_MEMORY_TOTAL_BYTES.clear()
        self._span.set({"stillhouse.outcome": self.outcome})
        if self.outcome in (AttemptOutcome.FAILED, AttemptOutcome.LOST):
            self._span.fail(self.outcome)
        return dict(self._phase_seconds)

    def _leave(self, at: float) -> None:
        if self._phase is not None:
            self._phase_seconds[self._phase] += max(0.0, at - self._phase_began)
            self._phase_span.end(at)


def show_worker(settings: Settings) -> None:
    """What Prometheus sees of a worker before it has done anything."""
    for kind in ("dataset", "teacher", "job"):
        WORKER_BUSY.labels(kind).set(0)
    WORK_DIR_FREE_BYTES.set_function(partial(_free_bytes, settings.work_dir))


@contextmanager
def observed(claim: Claim) -> Iterator[Observation]:
    """Log, measure and trace the block as the work on `claim`."""
    attributes: dict[str, Value | None] = {
        f"stillhouse.{claim.kind}_id": claim.id,
        "stillhouse.attempt": claim.attempt,
        "stillhouse.request_id": claim.request_id,
    }
    WORKER_BUSY.labels(claim.kind).set(1)
    began = time.monotonic()
    with (
        _log_context(claim),
        tracing.span(claim.kind, parent=claim.traceparent, kind="consumer", attributes=attributes) as span,
        structlog.contextvars.bound_contextvars(**({"trace_id": span.trace_id} if span.trace_id else {})),
    ):
        observation = Observation(span)
        try:
            yield observation
        finally:
            WORKER_BUSY.labels(claim.kind).set(0)
            phases = observation.close()
            ATTEMPT_SECONDS.labels(claim.kind, observation.outcome).observe(time.monotonic() - began)
            for phase, seconds in phases.items():
                PHASE_SECONDS.labels(phase, observation.outcome).observe(seconds)


def _free_bytes(folder: Path) -> float:
    for existing in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(existing).free
    return float("nan")


def _log_context(claim: Claim) -> contextlib.AbstractContextManager[None]:
    if claim.kind == "job":
        return job_context(claim.id, attempt=claim.attempt, request_id=claim.request_id)
    return structlog.contextvars.bound_contextvars(**{f"{claim.kind}_id": claim.id, "attempt": claim.attempt})


@contextmanager
def checkpoint_upload(step: int, size_bytes: int, *, not_wanted: tuple[type[Exception], ...]) -> Iterator[None]:
    """Measure and trace the block as the storing of a checkpoint. Those errors say that nobody wants it any more."""
    began, outcome = time.monotonic(), "failed"
    with tracing.span("store checkpoint", attributes={"stillhouse.step": step, "stillhouse.size_bytes": size_bytes}):
        try:
            yield
            outcome = "stored"
            CHECKPOINT_UPLOAD_BYTES.inc(size_bytes)
        except not_wanted:
            outcome = "dropped"
            raise
        finally:
            CHECKPOINT_UPLOAD_SECONDS.labels(outcome).observe(time.monotonic() - began)
