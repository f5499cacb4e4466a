"""What a data strategy is: which rows the student sees in each round, real and synthetic."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from worker.distill.choice import Choice
from worker.distill.data import Split
from worker.distill.objectives import Objective
from worker.distill.rows import SyntheticRows
from worker.distill.splicing import Splices
from worker.distill.synthesis import Points, Synthesizer


@dataclass(frozen=True)
class RoundPlan:
    """The rows of one round, in no particular order; numbers from the split's length on are synthetic."""

    rows: np.ndarray  # (presented,) int64
    synthetic: SyntheticRows | None
    facts: dict[str, float]  # what the strategy tells of the round, for the record


@dataclass(frozen=True)
class Questions:
    """About how many rows a round asks each of the models before it trains, at the most."""

    teacher: int
    student: int


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy may ask of the run. The costly things are functions: asked for, then computed."""

    arm: str
    seed: int
    split: Split
    rows: np.ndarray  # those of the split that the arm learns from, ascending
    synthesizer: Callable[[int], Synthesizer]  # by number of neighbours; fits the projection when first asked
    # (rows,) loss of these rows under the student as it is now, by an objective that looks at each row by itself; a
    # checkpoint knows it by its repr, which therefore says all that it computes by, and no address.
    score: Callable[[Objective, np.ndarray], np.ndarray]
    teacher_error: float  # share of the validation rows on which the teacher is wrong
    label: Callable[[Points | Splices], SyntheticRows]  # with the teacher's logits; drops what is not finite
    score_synthetic: Callable[[Objective, SyntheticRows], np.ndarray]  # (rows,) as `score`, of rows that are labelled
    choice: Choice = field(default_factory=Choice)  # how far all that is asked for the round's new rows is


class DataStrategy(Protocol):
    @property
    def needs_projection(self) -> bool:
        """Whether it asks for the synthesizer."""
        ...

    @property
    def needs_vectors(self) -> bool:
        """Whether its rows are made of the pooled vectors, and not of the map alone."""
        ...

    def round_sizes(self, epochs: float, rows: int) -> list[int]:
        """Rows presented in each round; they sum to round(epochs * rows), the one budget of every method."""
        ...

    def questions(self, epochs: float, rows: int, learnt: int) -> list[Questions]:
        """What each round of `round_sizes` asks, where `learnt` of the `rows` are those that the arm learns from."""
        ...

    def plan_round(
        self, number: int, size: int, rounds_without_gain: int, context: StrategyContext
    ) -> RoundPlan | None:
        """The `size` rows of round `number`; None where another round would bring nothing: training ends.

        `rounds_without_gain` counts the rounds since validation last improved.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the strategy carries from round to round, as plain JSON: a copy, which is saved also while the next
        round is planned."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def budget_rows(epochs: float, rows: int) -> int:
    """Rows presented to the student over the whole run."""
    return max(1, round(epochs * rows))


def split_evenly(total: int, parts: int) -> list[int]:
    """`total` as `parts` sizes that differ by one at most, empty ones left out."""
    edges = [round(total * part / parts) for part in range(parts + 1)]
    return [stop - start for start, stop in itertools.pairwise(edges) if stop > start]
