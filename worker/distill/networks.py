"""The two forms of a network: packed where that form exists for a model, else as transformers computes it."""

from typing import Any

import torch

from worker.distill.batches import Batch
from worker.distill.device import Compute
from worker.distill.families import family_of, pool_activation, word_table
from worker.distill.network import Network, Outputs
from worker.distill.packed.cuda_network import CudaNetwork
from worker.distill.packed.network import PackedNetwork, can_pack
from worker.distill.vectors import embed, forward_vectors, move
from worker.distill.weights import load_weights

# What a checkpoint records of how numbers come about: raise the one whose last bits change.
PACKED, PLAIN = "packed-4", "plain-3"


def build_network(model: torch.nn.Module, compute: Compute) -> Network:
    """The one network of `model`: a packed one takes its parameters into its own memory, so ask once."""
    if can_pack(model):
        form = CudaNetwork if compute.device.type == "cuda" else PackedNetwork
        return form(model, torch.bfloat16 if compute.precision == "bf16" else torch.float32, PACKED)
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
        family = family_of(model.config)
        self._activation = pool_activation(family)
        self._pooled: torch.Tensor | None = None  # what the pooler made of the newest batch
        model.get_submodule(family.pooler_path).register_forward_hook(self._keep_pooled)

    def training_outputs(self, batch: Batch, dropout_seed: int) -> Outputs:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed)
        with self._compute.autocast():
            return self._forward(batch, move(self._look_up(batch), batch))

    @torch.inference_mode()
    def outputs(self, batch: Batch) -> Outputs:
        self.model.eval()
        if self.words is not None:
            self.words.catch_up()
        with self._compute.autocast():
            return self._forward(batch, embed(batch, self.table))

    def end_training(self) -> None:
        super().end_training()
        self.model.zero_grad(set_to_none=True)

    def refresh(self) -> None:
        """Nothing is kept beside the model's own weights."""

    def step(self, learning_rate: float) -> None:
        self.optimizer.step(learning_rate, self._gradient)

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

    def _forward(self, batch: Batch, vectors: torch.Tensor) -> Outputs:
        logits = forward_vectors(self.model, batch, vectors)
        assert self._pooled is not None, "the pooler is part of every forward pass"
        pooled, self._pooled = self._pooled, None
        return Outputs(logits.float(), self._activation(pooled).float())

    def _keep_pooled(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:  # noqa: ARG002
        self._pooled = output

    def _gradient(self, name: str) -> torch.Tensor:
        gradient = self._parameters[name].grad
        assert gradient is not None, "backward() comes before it"
        return gradient

    def _look_up(self, batch: Batch) -> torch.Tensor:
        """(rows, length, width) the vectors of the batch's words, for training."""
        if self.words is None:
            return torch.nn.functional.embedding(batch.ids, self.table)
        assert batch.words is not None, "a batch to train words on lists them"
        return self.words.look_up(batch.words.ids, batch.words.which)
