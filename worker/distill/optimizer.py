"""The optimiser's step: all gradients clipped together, then AdamW over the weights and over the word vectors."""

from collections.abc import Callable

import torch

from worker.distill.parameterisation import Parameterisation
from worker.distill.words import WordVectors

_BEHIND = "behind/"
MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with gradients of a bounded norm.

    Biases and LayerNorms are not decayed, as usual for transformers, nor are word vectors.
    """

    def __init__(
        self,
        decayed: list[torch.nn.Parameter],
        plain: list[torch.nn.Parameter],
        words: WordVectors | None,
        parameterisation: Parameterisation | None,
        weight_decay: float,
    ) -> None:
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        self.words = words
        self._parameters = [*decayed, *plain]
        self._parameterisation = parameterisation
        self._behind = {} if parameterisation is None else parameterisation.parameters()
        # Apart from the others: what these are called is the same whatever form the network has.
        self._adamw_behind = None
        if self._behind:
            self._adamw_behind = torch.optim.AdamW(self._behind.values(), weight_decay=weight_decay, fused=True)

    def step(self, learning_rate: float, gradient_of: Callable[[str], torch.Tensor]) -> None:
        """One step along the gradients that backward() left; `gradient_of` a weight, by name, is where it left them."""
        if self._parameterisation is not None:
            self._parameterisation.pull_back(gradient_of)
        looked_up = [] if self.words is None else [self.words.looked_up]
        clip([*self._parameters, *self._behind.values(), *looked_up])
        _step(self.adamw, learning_rate)
        if self._parameterisation is not None and self._adamw_behind is not None:
            _step(self._adamw_behind, learning_rate * self._parameterisation.learning_rate_ratio)
            self._parameterisation.write()
        if self.words is not None:
            self.words.step(learning_rate)

    def state_behind_weights(self) -> dict[str, torch.Tensor]:
        """Of the tensors that a parameterisation trains instead of weights: themselves and their moments, on the
        processor."""
        state: dict[str, torch.Tensor] = {}
        for name, parameter in self._behind.items():
            assert self._adamw_behind is not None
            tensors = {"value": parameter.detach(), **self._adamw_behind.state.get(parameter, {})}
            state |= {f"{_BEHIND}{name}/{key}": value.to("cpu", copy=True) for key, value in tensors.items()}
        return state

    def load_state_behind_weights(self, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Go on from what `state_behind_weights` gave, the weights too; returns what else is among `saved`."""
        for key, value in saved.items():
            if key.startswith(_BEHIND):
                name, _, state = key.removeprefix(_BEHIND).rpartition("/")
                parameter = self._behind[name]
                assert self._adamw_behind is not None
                if state == "value":
                    parameter.data.copy_(value)
                else:
                    device = parameter.device if state != "step" or parameter.is_cuda else torch.device("cpu")
                    self._adamw_behind.state[parameter][state] = value.to(device)
        if self._parameterisation is not None:
            self._parameterisation.write()
        return {key: value for key, value in saved.items() if not key.startswith(_BEHIND)}


def _step(adamw: torch.optim.AdamW, learning_rate: float) -> None:
    for group in adamw.param_groups:
        group["lr"] = learning_rate
    adamw.step()


def clip(parameters: list[torch.nn.Parameter]) -> None:
    """Scale the gradients down to a joint norm of at most one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # A processor knows the norm by now and may be spared a pass over all gradients; a GPU would be waited for.
    if norm.is_cuda or norm > MAX_GRADIENT_NORM:
        torch.nn.utils.clip_grads_with_norm_(parameters, MAX_GRADIENT_NORM, norm)
