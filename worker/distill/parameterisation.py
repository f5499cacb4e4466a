"""What a student's weights may be in training: functions of other tensors, which are what is trained.

The networks go on to compute with the weights. Between backward and the optimiser a gradient of the weights becomes
one of the tensors behind them (the chain rule), and after the step the weights are written anew. So neither form of a
network knows of it, and the student that is kept is the plain one at any time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch


class Parameterisation(ABC):
    # Of the learning rate of what is trained instead of weights, to that of the training.
    learning_rate_ratio: float = 1.0

    @abstractmethod
    def check(self, model: torch.nn.Module) -> None:
        """Raises InvalidJob where weights of the shapes that `model` has cannot be taken over: before anything is
        computed, of the teacher, whose layers a student has."""

    @abstractmethod
    def begin(self, model: torch.nn.Module) -> None:
        """Take over weights of `model`, and write them as what they are from now on."""

    @abstractmethod
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained instead of the weights, by name."""

    @abstractmethod
    def pull_back(self, gradient_of: Callable[[str], torch.Tensor]) -> None:
        """Leave at the parameters the gradient that follows from those of the weights, and zero these: the weights
        are not trained themselves."""

    @abstractmethod
    def write(self) -> None:
        """Bring the weights of the model up to the parameters."""
