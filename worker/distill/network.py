"""A model and the way in which this run computes it: what is asked of either form, and what both share in training.

Everything that trains or asks a model goes through a Network; networks.py chooses the form.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from worker.distill.batches import Batch
from worker.distill.optimizer import Optimizer, Tensors
from worker.distill.parameterisation import Parameterisation
from worker.distill.weights import trained_weights
from worker.distill.words import WordVectors


@dataclass(frozen=True)
class Outputs:
    """What a model says to a batch, in fp32."""

    logits: torch.Tensor  # (rows, classes)
    features: torch.Tensor  # (rows, width) what the last linear layer reads, before dropout


class Network(ABC):
    model: torch.nn.Module  # plain transformers, whose parameters are the ones that are trained
    table: torch.nn.Parameter  # (vocabulary, width) of the model's words
    arithmetic: str  # which form this is

    def __init__(self) -> None:
        self.words: WordVectors | None = None  # where training includes them
        self._optimizer: Optimizer | None = None

    @abstractmethod
    def training_outputs(self, batch: Batch, dropout_seed: int) -> Outputs:
        """With dropout drawn from the seed; older gradients are forgotten, backward() is next."""

    @abstractmethod
    def outputs(self, batch: Batch) -> Outputs:
        """Without dropout and without a gradient."""

    @abstractmethod
    def refresh(self) -> None:
        """To be called after the model's weights were changed from outside."""

    @abstractmethod
    def step(self, learning_rate: float) -> None:
        """After backward(): one step of the optimiser."""

    @property
    def optimizer(self) -> Optimizer:
        assert self._optimizer is not None, "begin_training() comes before it"
        return self._optimizer

    def begin_training(
        self,
        weight_decay: float,
        word_rows: np.ndarray | None,
        parameterisation: Parameterisation | None,
        beside: Tensors = MappingProxyType({}),
    ) -> None:
        """A fresh optimiser; of the word table it trains `word_rows` (rows,), all that will occur, or nothing, and it
        trains the tensors `beside`, of the loss."""
        self.words = None if word_rows is None else WordVectors(self.table, word_rows)
        if parameterisation is not None:
            parameterisation.begin(self.model)
            self.refresh()
        decayed, plain = self._groups()
        self._optimizer = Optimizer(decayed, plain, self.words, parameterisation, beside, weight_decay)

    def end_training(self) -> None:
        """Forget what only training needs: the room is the next network's."""
        if self.words is not None:
            self.words.catch_up()
        self.words, self._optimizer = None, None

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """Copies on the processor of all that training changes, for weights.load_weights."""
        return trained_weights(self.model, self.words)

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """On the processor, as "{parameter}/{state}", the same names whichever form this is."""
        state = self._adamw_state(self.optimizer.adamw) | self.optimizer.named_state()
        return state if self.words is None else state | self.words.state()

    def load_optimizer_state(self, saved: dict[str, torch.Tensor]) -> None:
        """Go on from what `optimizer_state` gave."""
        if self.words is not None:
            saved = self.words.load_state(saved)
        saved = self.optimizer.load_named_state(saved)
        self.refresh()
        self._load_adamw_state(self.optimizer.adamw, saved)

    @abstractmethod
    def _groups(self) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
        """The parameters to be trained: those that are decayed, and those that are not."""

    @abstractmethod
    def _adamw_state(self, adamw: torch.optim.AdamW) -> dict[str, torch.Tensor]: ...

    @abstractmethod
    def _load_adamw_state(self, adamw: torch.optim.AdamW, saved: dict[str, torch.Tensor]) -> None: ...
