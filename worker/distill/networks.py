"""The two forms of a network: packed where that form exists for a model, else as transformers computes it."""

from typing import Any

import torch

from worker.distill.batches import Batch
from worker.distill.device import Compute
from worker.distill.families import word_table
from worker.distill.network import Network
from worker.distill.packed.network import PackedNetwork, can_pack
from worker.distill.vectors import embed, forward_vectors, move
from worker.distill.weights import load_weights

# What a checkpoint records of how numbers come about: raise the one whose last bits change.
PACKED, PLAIN = "packed-2", "plain-2"


def build_network(model: torch.nn.Module, compute: Compute) -> Network:
    """The one network of `model`: a packed one takes its parameters into its own memory, so ask once."""
    if can_pack(model):
        return PackedNetwork(model, torch.bfloat16 if compute.precision == "bf16" else torch.float32, PACKED)
    return PlainNetwork(model, compute)


def put_weights(network: Network, weights: dict[str, torch.Tensor]) -> None:
    """Put trained `weights` back into a network: into its model, and into what it reads beside it."""
    load_weights(network.model, weights)
    network.refresh()


class PlainNetwork(Network):
    """As transformers computes it, under autocast."""

    arithmetic = PLAIN

    def __init__(self, model: torch.nn.Module, compute: Compute) -> None:
        super().__init__()
        self.model = model
        self.table = word_table(model)
        self._compute = compute
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def training_logits(self, batch: Batch, dropout_seed: int) -> torch.Tensor:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed)
        with self._compute.autocast():
            return forward_vectors(self.model, batch, move(self._look_up(batch), batch)).float()

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        self.model.eval()
        if self.words is not None:
            self.words.catch_up()
        with self._compute.autocast():
            return forward_vectors(self.model, batch, embed(batch, self.table)).float()

    def refresh(self) -> None:
        """Nothing is kept beside the model's own weights."""

    def step(self, learning_rate: float) -> None:
        self.optimizer.step(learning_rate)

    def _groups(self) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
        parameters = self._parameters.values()
        return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]

    def _adamw_state(self, adamw: torch.optim.AdamW) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": value.detach().to("cpu", copy=True).contiguous()
            for name, parameter in self._parameters.items()
            for key, value in adamw.state.get(parameter, {}).items()
        }

    def _load_adamw_state(self, adamw: torch.optim.AdamW, saved: dict[str, torch.Tensor]) -> None:
        for key, value in saved.items():
            name, _, state = key.rpartition("/")
            parameter = self._parameters[name]
            # AdamW keeps its step count on the processor unless fused on CUDA; follow what it would do.
            device: Any = parameter.device if state != "step" or parameter.is_cuda else torch.device("cpu")
            adamw.state[parameter][state] = value.to(device)

    def _look_up(self, batch: Batch) -> torch.Tensor:
        """(rows, length, width) the vectors of the batch's words, for training."""
        if self.words is None:
            return torch.nn.functional.embedding(batch.ids, self.table)
        # Nothing reads what stands at the padding, so it may be a word that occurs.
        return self.words.look_up(torch.where(batch.mask, batch.ids, batch.ids[:, :1]))
