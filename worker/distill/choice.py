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

    by: str  # who answers it, by the hash of its outputs: which teacher, in what precision, computed on what
    work: float  # that it has cost, in the progress's unit
    part_work: float  # and of that the part under way
    losses: np.ndarray | None  # (scored rows,) float32, by which it is led, once they are known and if any are
    led_by_sha256: str  # of what rows they are, and which losses
    chosen: Chosen | None  # by the parts that are over
    # Of the part under way what was drawn, by hash, and what teacher and student have said, each to the first rows in
    # the order of its pass.
    drawn_sha256: str
    labelled: Predictions | None
    scored: Predictions | None


class Choice:
    """The one of the round under way; it may be saved between two batches of what is asked for it.

    A run that goes on as it was asks for the same again, and finds it here. One that does not (another processor, a
    teacher that was tuned anew, another release) has dropped what is of something else: all of a choice that another
    answered or that other losses led, of other rows drawn the part under way. Work that was counted is told to `lose`.
    """

    def __init__(self, by: str = "", lose: Callable[[float], None] = lambda _: None) -> None:
        self._by = by
        self._lose = lose
        self._at_safe_point: Callable[[], None] = lambda: None
        self.changes = 0  # only rises, so that what was dropped and asked again is not taken for what was saved before
        self.forget()

    def forget(self) -> None:
        """It is over."""
        self.work = 0.0
        self._part_work = 0.0
        self._losses: np.ndarray | None = None
        self._led_by_sha256 = ""
        self._chosen: list[Chosen] = []
        self._drawn_sha256 = ""
        self._labelled: Callable[[], Predictions] | None = None
        self._scored: Callable[[], Predictions] | None = None
        self.changes += 1

    def call_at_safe_points(self, at_safe_point: Callable[[], None]) -> None:
        self._at_safe_point = at_safe_point

    def state(self) -> ChoiceState | None:
        """None where nothing is known that would have to be asked again."""
        if self._losses is None and not self._chosen and self._labelled is None:
            return None
        return ChoiceState(
            by=self._by,
            work=self.work,
            part_work=self._part_work,
            losses=self._losses,
            led_by_sha256=self._led_by_sha256,
            chosen=Chosen.joined(self._chosen) if self._chosen else None,
            drawn_sha256=self._drawn_sha256,
            labelled=self.labelled,
            scored=self.scored,
        )

    def go_on_from(self, state: ChoiceState) -> None:
        """From nothing where another answered it."""
        self.forget()
        if state.by != self._by:
            return
        self.work, self._part_work = state.work, state.part_work
        self._losses, self._led_by_sha256 = state.losses, state.led_by_sha256
        self._chosen = [] if state.chosen is None else [state.chosen]
        self._drawn_sha256 = state.drawn_sha256
        labelled, scored = state.labelled, state.scored
        self._labelled = None if labelled is None else lambda: labelled
        self._scored = None if scored is None else lambda: scored

    def spend(self, work: float) -> None:
        """Something was asked that cost so much, in the progress's unit."""
        self.work += work
        self._part_work += work

    def losses(self, rows: np.ndarray, of: str) -> np.ndarray | None:
        """(rows,) float32 the losses `of` that kind of these rows, if it is led by them already; led by others it is
        forgotten."""
        if self._losses is None:
            return None
        if self._led_by_sha256 == _sha256(of, rows):
            return self._losses
        lost = self.work
        self.forget()
        self._lose(lost)
        return None

    def lead(self, losses: np.ndarray, rows: np.ndarray, of: str) -> None:
        """By these losses `of` that kind of these rows it is led, (rows,) float32."""
        self._losses, self._led_by_sha256 = losses, _sha256(of, rows)
        self._part_work = 0.0
        self._reach_safe_point()

    @property
    def parts(self) -> int:
        """How many of its parts are over."""
        return sum(each.parts for each in self._chosen)

    def begin_part(self, drawn: Points | Splices) -> None:
        """These are its rows. Parts that are over stay, as rounds that are over do."""
        # By which real rows, and which of their words, each is made of: the weights that are computed from those may
        # differ in the last bit elsewhere.
        columns = (getattr(drawn, column.name) for column in fields(drawn))
        drawn_sha256 = _sha256("", *(column for column in columns if column.dtype.kind == "i"))
        if drawn_sha256 != self._drawn_sha256:
            self._drawn_sha256 = drawn_sha256
            self._drop_part()

    def end_part(self, kept: SyntheticRows, losses: np.ndarray, kept_losses: np.ndarray) -> None:
        self._chosen.append(Chosen(1, kept, losses, kept_losses))
        self._labelled = self._scored = None
        self._part_work = 0.0
        self.changes += 1

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
        self._reach_safe_point()

    def student_said(self, so_far: Callable[[], Predictions]) -> None:
        self._scored = so_far
        self._reach_safe_point()

    def _drop_part(self) -> None:
        lost, self._part_work = self._part_work, 0.0
        self.work -= lost
        self._labelled = self._scored = None
        self.changes += 1
        self._lose(lost)

    def _reach_safe_point(self) -> None:
        self.changes += 1
        self._at_safe_point()


def _sha256(name: str, *columns: np.ndarray) -> str:
    digest = hashlib.sha256(name.encode())
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()
