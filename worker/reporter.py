"""The engine's events as rows: progress, metrics and events in the database, files to the uploads."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.db.session import write_session
from app.outages import is_transient
from app.repositories import jobs, metrics
from app.repositories.checkpoints import CheckpointFacts
from worker.distill.run_folder import EVENTS
from worker.event_tail import EventTail
from worker.patience import DiskFull, is_disk_full
from worker.uploads import Uploads
from worker.work import Check, EventQueue, Work

# A person watches, nothing waits: one small transaction a second at most.
FLUSH_SECONDS = 1.0
RETRY_SECONDS = 5.0

# What a reader of the job's history wants to see; the rest is on the row, in the metrics, or in the status.
_KEPT_EVENTS = frozenset({"phase", "round", "warning", "resumed"})
_OUTCOMES = frozenset({"succeeded", "failed"})

log = structlog.get_logger(__name__)


class Reporter:
    """Reads the events of one run and writes what they say, a batch at a time."""

    def __init__(self, work: Work, uploads: Uploads, run_dir: Path) -> None:
        self._work = work
        self._uploads = uploads
        self._run_dir = run_dir
        self._tail = EventTail(run_dir / EVENTS)
        self._next_flush = 0.0
        self._points: list[tuple[str, int, float]] = []
        self._events = EventQueue(work.claim)
        self._progress: dict[str, Any] = {
            "phase": "preparing",
            "round": None,
            "rounds": None,
            "progress": None,
            "eta_seconds": None,
        }
        self._last_metrics: dict[str, float | None] = {}
        # Messages by code; None where one no longer holds.
        self._warnings: dict[str, str | None] = {}
        self._has_progress = True  # "preparing" is news too
        # Something waits to be stored until what was said before it is written.
        self._has_uploads = False
        # The last `succeeded` or `failed` event.
        self.outcome: dict[str, Any] | None = None

    def collect(self) -> None:
        """Take in the events that the engine has written since the last call."""
        for event in self._tail.read():
            try:
                self._take(event)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("event_ignored", event=event, error=repr(error))

    def flush_if_due(self) -> None:
        """Write what has been collected, at most once a second. A database that is away is asked again later.

        Raises LeaseLost when the work was taken away.
        """
        if time.monotonic() < self._next_flush or not self._has_news():
            return
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        try:
            with write_session(self._work.settings) as session:
                self._write(session)
        except Exception as error:
            if is_disk_full(error):
                raise DiskFull(str(error)) from error
            if not is_transient(error):
                raise
            log.warning("progress_not_written", error=str(error))
            self._next_flush = time.monotonic() + RETRY_SECONDS
        else:
            self._forget()

    def flush(self, check: Check) -> None:
        """Write everything that has been collected, however long the database takes."""
        if self._has_news():
            self._work.write(self._write, check=check)
            self._forget()

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        payload = {name: value for name, value in event.items() if name not in {"type", "time"}}
        if kind == "phase":
            self._work.seen.enter(str(payload["phase"]), round=payload.get("round"), at=_unix_time(event))
        if kind in _KEPT_EVENTS:
            self._events.append({"type": kind, "payload": payload})
        if kind in {"phase", "progress"}:
            # A phase that says nothing of rounds has none.
            self._progress |= {"phase": payload["phase"], "round": payload.get("round")}
            self._progress |= {name: payload[name] for name in self._progress if name in payload}
            if memory := payload.get("device_memory"):
                self._work.seen.device_memory(**memory)
            if payload.get("loss") is not None:
                self._last_metrics["loss"] = float(payload["loss"])
            self._has_progress = True
        elif kind == "metric":
            series, value = str(payload["series"]), payload["value"]
            # Null in the event: the number was not finite.
            self._points.append((series, int(payload["step"]), float("nan") if value is None else float(value)))
            self._last_metrics[series] = value
            self._has_progress = True
        elif kind == "warning":
            self._warnings[str(payload["code"])] = str(payload["message"])
        elif kind == "resumed":
            # Said anew, right after this, where it holds: an attempt that went on elsewhere may have left no trace.
            self._warnings["inexact_resume"] = None
        elif kind == "checkpoint":
            self._uploads.add_checkpoint(_checkpoint_facts(payload), self._inside(payload["path"]))
            self._has_uploads = True
        elif kind == "cache":
            folder = self._inside(payload["path"])
            self._uploads.add_cache_entry(str(payload["kind"]), str(payload["key"]), folder)
            self._has_uploads = True
        elif kind in _OUTCOMES:
            self.outcome = dict(event)

    def _inside(self, path: str) -> Path:
        full = (self._run_dir / path).resolve()
        if not full.is_relative_to(self._run_dir.resolve()):
            raise ValueError(f"{path!r} is outside the run folder")
        return full

    def _has_news(self) -> bool:
        return bool(self._points or self._events or self._has_progress or self._has_uploads)

    def _write(self, session: Session) -> None:
        claim = self._work.claim
        if self._points:
            metrics.upsert(session, claim, self._points)
        self._events.write(session)
        jobs.update_progress(session, claim, **self._progress, metrics=self._last_metrics, warnings=self._warnings)

    def _forget(self) -> None:
        self._points.clear()
        self._events.committed()
        self._last_metrics.clear()
        self._warnings.clear()
        self._has_progress = self._has_uploads = False
        self._uploads.release()


def _unix_time(event: Mapping[str, Any]) -> float | None:
    return datetime.fromisoformat(event["time"]).timestamp() if "time" in event else None


def _checkpoint_facts(payload: Mapping[str, Any]) -> CheckpointFacts:
    return CheckpointFacts(
        step=int(payload["step"]),
        arm=payload.get("arm"),
        round=payload.get("round"),
        validation_accuracy=payload.get("validation_accuracy"),
        is_best=bool(payload.get("is_best", False)),
    )
