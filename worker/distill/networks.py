"""A model and the way in which this run computes it: packed where that form exists, else as transformers does.

Everything that trains or asks a model goes through a Network, so which of the two it is stays here.
"""

from typing import Any, Protocol

import torch

from worker.distill.batches import Batch
from worker.distill.device import Compute
from worker.distill.families import word_table
from worker.distill.packed.network import PackedNetwork, can_pack
from worker.distill.vectors import forward_vectors

# What a checkpoint records of how numbers come about: raise the one whose last bits change.
_PACKED, _PLAIN = "packed-1", "plain-1"


class Network(Protocol):
    @property
    def model(self) -> torch.nn.Module:
        """The plain transformers model, whose parameters are the ones that are trained."""
        ...

    @property
    def arithmetic(self) -> str:
        """Which form this is."""
        ...

    def training_logits(self, batch: Batch, dropout_seed: int) -> torch.Tensor:
        """(rows, classes) fp32 with dropout drawn from the seed; older gradients are forgotten, backward() is next."""
        ...

    def logits(self, batch: Batch) -> torch.Tensor:
        """(rows, classes) fp32 without dropout and without a gradient."""
        ...

    def refresh(self) -> None:
        """To be called after the model's weights were changed from outside or by the optimiser."""
        ...

    def build_optimizer(self, weight_decay: float) -> torch.optim.Optimizer:
        """AdamW over the trainable weights; biases and LayerNorms are not decayed, as usual for transformers."""
        ...

    def gather_gradients(self) -> list[torch.nn.Parameter]:
        """After backward(): what the optimiser steps over, with gradients in place."""
        ...

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """Its state on the processor, as "{parameter}/{state}", the same names whichever form this is."""
        ...

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None: ...


def build_network(model: torch.nn.Module, compute: Compute) -> Network:
    """The one network of `model`: a packed one takes its parameters into its own memory, so ask once."""
    if can_pack(model):
        return PackedNetwork(model, torch.bfloat16 if compute.precision == "bf16" else torch.float32, _PACKED)
    return PlainNetwork(model, compute)


class PlainNetwork:
    """As transformers computes it, under autocast."""

    arithmetic = _PLAIN

    def __init__(self, model: torch.nn.Module, compute: Compute) -> None:
        self.model = model
        self._compute = compute
        self._table = word_table(model)
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def training_logits(self, batch: Batch, dropout_seed: int) -> torch.Tensor:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed)
        with self._compute.autocast():
            return forward_vectors(self.model, batch, self._table).float()

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        self.model.eval()
        with self._compute.autocast():
            return forward_vectors(self.model, batch, self._table).float()

    def refresh(self) -> None:
        """Nothing is kept beside the model's own weights."""

    def build_optimizer(self, weight_decay: float) -> torch.optim.Optimizer:
        decayed = [p for p in self._parameters.values() if p.ndim > 1]
        plain = [p for p in self._parameters.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, fused=True)

    def gather_gradients(self) -> list[torch.nn.Parameter]:
        return list(self._parameters.values())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": value.detach().to("cpu", copy=True).contiguous()
            for name, parameter in self._parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
        for key, value in saved.items():
            name, _, state = key.rpartition("/")
            parameter = self._parameters[name]
            # AdamW keeps its step count on the processor unless fused on CUDA; follow what it would do.
            device: Any = parameter.device if state != "step" or parameter.is_cuda else torch.device("cpu")
            optimizer.state[parameter][state] = value.to(device)
