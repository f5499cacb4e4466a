"""How far a run is and how long it will take, from the work that each part is known to cost.

The unit is one row through one transformer layer, forward. What a cache makes unnecessary is taken out of the plan.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.distill.device import device_memory
from worker.distill.events import EventLog

# Of the last layer only keys and values are of all tokens: two of the twelve products, each a square of the width.
_LAST_LAYER = 1 / 6
_TRAINING = 3  # forward, and backward twice that
_REPORT_EVERY_SECONDS = 1.0


def forward_work(layers: int, rows: float) -> float:
    """What it costs to ask a model of so many `layers` about `rows`."""
    return (layers - 1 + _LAST_LAYER) * rows


def training_work(layers: int, rows: float) -> float:
    """What it costs to train it on them."""
    return _TRAINING * forward_work(layers, rows)


class Progress:
    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._planned: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._done_before_this_process = 0.0
        self._started = time.monotonic()
        self._last_report = 0.0
        # What is done, the number of its round and of how many; None until something is.
        self._place: tuple[str, int | None, int | None] | None = None
        self._loss: float | None = None

    def plan(self, part: str, work: float) -> None:
        """Set what `part` will cost in all."""
        self._planned[part] = work

    def enter(self, phase: str, round: int | None = None, rounds: int | None = None) -> None:
        """Name what the run does now; `round` of `rounds` counts from 1, and is None where there are no rounds."""
        if self._place == (phase, round, rounds):
            return
        self._place, self._loss = (phase, round, rounds), None
        self._events.emit("phase", phase=phase, round=round, rounds=rounds)
        self.report(force=True)

    @contextmanager
    def aside(self, phase: str) -> Iterator[None]:
        """Name what is done for a while in the middle of something else."""
        before = self._place
        self.enter(phase)
        yield
        if before is not None:
            self.enter(*before)

    def restore(self, part: str, work: float) -> None:
        """Work that an earlier process did: it counts, but says nothing about this one's speed."""
        self._done[part] = self._done.get(part, 0.0) + work
        self._done_before_this_process += work

    def advance(self, part: str, work: float, loss: float | None = None) -> None:
        self._done[part] = self._done.get(part, 0.0) + work
        if loss is not None:
            self._loss = loss
        self.report()

    def complete(self, part: str) -> None:
        """`part` is over, whatever of it was not needed (early stopping, a cache)."""
        self._planned[part] = self._done.get(part, 0.0)

    def done(self, part: str) -> float:
        """The work of `part` that the run has done, in this process or before."""
        return self._done.get(part, 0.0)

    def redo(self, part: str, work: float | None = None) -> None:
        """What an earlier process did of `part`, all or so much of it, is lost, and to be done anew."""
        lost = self._done.get(part, 0.0) if work is None else work
        self._done[part] = self._done.get(part, 0.0) - lost
        self._done_before_this_process -= lost

    def report(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._last_report < _REPORT_EVERY_SECONDS:
            return
        self._last_report = now
        phase, round_, rounds = self._place or ("preparing", None, None)
        memory = device_memory()
        done = sum(self._done.values())
        # A part that took more than was planned was planned too low: it takes nothing from what is left of the others.
        planned = sum(max(work, self._done.get(part, 0.0)) for part, work in self._planned.items())
        if not planned:
            return  # nothing is known yet, and a run that goes on is as far as was last said of it
        here = done - self._done_before_this_process
        remaining = max(planned - done, 0.0)
        self._events.emit(
            "progress",
            phase=phase,
            round=round_,
            rounds=rounds,
            progress=min(done / planned, 1.0),
            eta_seconds=round(remaining * (now - self._started) / here, 1) if here > 0 else None,
            loss=self._loss,
            **({} if memory is None else {"device_memory": memory}),
        )
