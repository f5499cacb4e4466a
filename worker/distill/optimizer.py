"""The optimiser's step: all gradients clipped together, then AdamW over the weights and over the word vectors."""

from collections.abc import Callable, Mapping

import torch

from worker.distill.parameterisation import Parameterisation
from worker.distill.words import WordVectors

MAX_GRADIENT_NORM = 1.0
Tensors = Mapping[str, torch.nn.Parameter]


class Optimizer:
    """AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with gradients of a bounded norm.

    Biases and LayerNorms are not decayed, as usual for transformers, nor are word vectors. `beside` are tensors of the
    loss that are trained with the student, by name.
    """

    def __init__(
        self,
        decayed: list[torch.nn.Parameter],
        plain: list[torch.nn.Parameter],
        words: WordVectors | None,
        parameterisation: Parameterisation | None,
        beside: Tensors,
        weight_decay: float,
    ) -> None:
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        self.words = words
        self._parameters = [*decayed, *plain]
        self._parameterisation = parameterisation
        # Apart from the others: what these are called is the same whatever form the network has.
        behind = {} if parameterisation is None else parameterisation.parameters()
        self._behind = _Named("behind/", behind, weight_decay)
        self._beside = _Named("beside/", beside, weight_decay)

    def step(self, learning_rate: float, gradient_of: Callable[[str], torch.Tensor]) -> None:
        """One step along the gradients that backward() left; `gradient_of` a weight, by name, is where it left them."""
        if self._parameterisation is not None:
            self._parameterisation.pull_back(gradient_of)
        looked_up = [] if self.words is None else [self.words.looked_up]
        clip([*self._parameters, *self._behind.tensors.values(), *self._beside.tensors.values(), *looked_up])
        _step(self.adamw, learning_rate)
        self._beside.step(learning_rate)
        if self._parameterisation is not None:
            self._behind.step(learning_rate * self._parameterisation.learning_rate_ratio)
            self._parameterisation.write()
        if self.words is not None:
            self.words.step(learning_rate)

    def named_state(self) -> dict[str, torch.Tensor]:
        """Of the tensors that are no weights of the model: themselves and their moments, on the processor."""
        return self._behind.state() | self._beside.state()

    def load_named_state(self, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Go on from what `named_state` gave, the weights too; returns what else is among `saved`."""
        saved = self._beside.load(self._behind.load(saved))
        if self._parameterisation is not None:
            self._parameterisation.write()
        return saved


class _Named:
    """AdamW over tensors that have a name of their own, under a common prefix; all of them are decayed."""

    def __init__(self, prefix: str, tensors: Tensors, weight_decay: float) -> None:
        self.tensors = tensors
        self._prefix = prefix
        self._adamw = torch.optim.AdamW(tensors.values(), weight_decay=weight_decay, fused=True) if tensors else None

    def step(self, learning_rate: float) -> None:
        if self._adamw is not None:
            _step(self._adamw, learning_rate)
            self._adamw.zero_grad()

    def state(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.tensors.items():
            assert self._adamw is not None
            values = {"value": tensor.detach(), **self._adamw.state.get(tensor, {})}
            found |= {f"{self._prefix}{name}/{key}": value.to("cpu", copy=True) for key, value in values.items()}
        return found

    def load(self, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns what else is among `saved`."""
        for key, value in saved.items():
            if key.startswith(self._prefix):
                name, _, state = key.removeprefix(self._prefix).rpartition("/")
                tensor = self.tensors[name]
                assert self._adamw is not None
                if state == "value":
                    tensor.data.copy_(value)
                else:
                    device = tensor.device if state != "step" or tensor.is_cuda else torch.device("cpu")
                    self._adamw.state[tensor][state] = value.to(device)
        return {key: value for key, value in saved.items() if not key.startswith(self._prefix)}


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
