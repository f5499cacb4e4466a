"""What a method is to the engine: parameters that a job names, and the part that they bring to a training."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from worker.distill.objectives import Gate, Objective
from worker.distill.parameterisation import Parameterisation
from worker.distill.strategies.base import DataStrategy
from worker.distill.strategies.guides import Guide

# From the labels (rows,) of the training rows and the job's seed to row numbers, ascending.
Subset = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Part:
    """What one method brings. A training has one objective and one strategy; of the others as many as there are,
    but one guide, one gate, one subset and one parameterisation at most."""

    objective: Objective | None = None
    default_objective: Objective | None = None  # where no other method of the job brings an objective
    auxiliary: Objective | None = None  # added to whatever the objective is
    gate: Gate | None = None  # which rows of a batch count
    strategy: DataStrategy | None = None
    subset: Subset | None = None  # of the training rows, all that the student and its strategy get to see
    guide: Guide | None = None  # leads the strategy's rounds instead of its own
    parameterisation: Callable[[], Parameterisation] | None = None


class Method(ABC):
    """A frozen dataclass whose fields are the method's parameters, by the names that the API gives them."""

    # Raised when a student by it would come out with other bits than by the releases before.
    revision: ClassVar[int] = 1

    @abstractmethod
    def part(self) -> Part:
        """Fresh: what it brings may carry state."""
