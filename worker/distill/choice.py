"""A round's choice of new rows under way: what the models have said to its candidates by now.

Of very many rows it takes as long as an epoch. A checkpoint that holds this spares a run that was killed in the middle
of it to ask them all again. What was drawn is not in it: it comes about anew, by the losses that led the choice.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from worker.distill.rows import Predictions, SyntheticRows
from worker.distill.splicing import Splices
from worker.distill.synthesis import Points


@dataclass(frozen=True)
class Chosen:
    """What parts of a choice that are over came to, one after the other."""

    parts: int
    kept: SyntheticRows
    losses: np.ndarray  # (candidates,) float32
    kept_losses: np.ndarray  # (kept,) float32

    @staticmethod
    def joined(chosen: "list[Chosen]") -> "Chosen":
        return Chosen(
            sum(each.parts for each in chosen),
            SyntheticRows.joined([each.kept for each in chosen]),
            np.concatenate([each.losses for each in chosen]),
            np.concatenate([each.kept_losses for each in chosen]),
        )


@dataclass(frozen=True)
class ChoiceState:
    """How far a choice is."""

    work: float  # that it has cost, in the progress's unit
    losses: np.ndarray | None  # (scored rows,) float32, by which it is led, once they are known and if any are
    chosen: Chosen | None  # by the parts that are over
    # Of the part under way what was asked and whom, by hash, and what teacher and student have said, each to the first
    # rows in the order of its pass.
    asked_sha256: str
    labelled: Predictions | None
    scored: Predictions | None


class Choice:
    """The one of the round under way; it may be saved between two batches of what is asked for it."""

    def __init__(self) -> None:
        self.forget()
        self._at_safe_point: Callable[[], None] = lambda: None

    def forget(self) -> None:
        """It is over."""
        self.work = 0.0
        self.losses: np.ndarray | None = None
        self._chosen: list[Chosen] = []
        self._asked_sha256 = ""
        self._labelled: Callable[[], Predictions] | None = None
        self._scored: Callable[[], Predictions] | None = None

    def call_at_safe_points(self, at_safe_point: Callable[[], None]) -> None:
        self._at_safe_point = at_safe_point

    def state(self) -> ChoiceState | None:
        """None where nothing is known that would have to be asked again."""
        if self.losses is None and not self._chosen and self._labelled is None:
            return None
        chosen = Chosen.joined(self._chosen) if self._chosen else None
        return ChoiceState(self.work, self.losses, chosen, self._asked_sha256, self.labelled, self.scored)

    def go_on_from(self, state: ChoiceState) -> None:
        self.forget()
        self.work = state.work
        self.losses = state.losses
        self._chosen = [] if state.chosen is None else [state.chosen]
        self._asked_sha256 = state.asked_sha256
        labelled, scored = state.labelled, state.scored
        self._labelled = None if labelled is None else lambda: labelled
        self._scored = None if scored is None else lambda: scored

    def lead(self, losses: np.ndarray) -> None:
        """By these it is led, (scored rows,) float32."""
        self.losses = losses
        self._at_safe_point()

    @property
    def parts(self) -> int:
        """How many of its parts are over."""
        return sum(each.parts for each in self._chosen)

    def begin_part(self, drawn: Points | Splices, by: str) -> None:
        """These are its rows, and who answers them is known as `by`. Where a run goes on both are those of before, but
        for one that goes on with other bits: what others said, or to others, is nothing to them. Parts that are over
        stay, as rounds that are over do."""
        digest = hashlib.sha256(by.encode())
        for column in fields(drawn):
            digest.update(getattr(drawn, column.name).tobytes())
        if digest.hexdigest() != self._asked_sha256:
            self._asked_sha256 = digest.hexdigest()
            self._labelled = self._scored = None

    def end_part(self, kept: SyntheticRows, losses: np.ndarray, kept_losses: np.ndarray) -> None:
        self._chosen.append(Chosen(1, kept, losses, kept_losses))
        self._labelled = self._scored = None

    def chosen(self) -> Chosen:
        """By all parts, of which there is at least one."""
        return Chosen.joined(self._chosen)

    @property
    def labelled(self) -> Predictions | None:
        """What the teacher has said to the part under way, as a pass goes on from it."""
        return None if self._labelled is None else self._labelled()

    @property
    def scored(self) -> Predictions | None:
        """What the student has, likewise."""
        return None if self._scored is None else self._scored()

    def teacher_said(self, so_far: Callable[[], Predictions]) -> None:
        self._labelled = so_far
        self._at_safe_point()

    def student_said(self, so_far: Callable[[], Predictions]) -> None:
        self._scored = so_far
        self._at_safe_point()
