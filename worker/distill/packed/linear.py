"""The linear layers of the packed form, by the weights that they read."""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as functional

from worker.distill.packed.weights import FlatWeights

Tensor = torch.Tensor


class Linear:
    """One layer, or several that read the same values, stacked along their outputs."""

    def __init__(self, weights: FlatWeights, *paths: str) -> None:
        self.weight = weights.read(*(f"{path}.weight" for path in paths))
        self.bias = weights.read(*(f"{path}.bias" for path in paths))

    def __call__(self, values: Tensor) -> Tensor:
        return functional.linear(values, self.weight, self.bias)


class DirectLinear:
    """The same on a GPU, with gradients written where the optimiser looks for them: the product that makes one gives
    its sums in fp32, and no copy follows. To be asked once in a pass, and always followed by its backward pass."""

    def __init__(self, weights: FlatWeights, *paths: str) -> None:
        names = ([f"{path}.weight" for path in paths], [f"{path}.bias" for path in paths])
        self._weight, self._bias = (weights.read(*each, leaves_gradient=False) for each in names)
        self._gradients = tuple(weights.gradient_of(*each) for each in names)

    def __call__(self, values: Tensor) -> Tensor:
        return cast(Tensor, _Direct.apply(values, self._weight, self._bias, *self._gradients))


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, *gradients: Callable[[], Tensor]) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.gradients = gradients
        return functional.linear(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        values, weight = ctx.saved_tensors
        of_weight, of_bias = (each() for each in ctx.gradients)
        _multiply(gradient.t(), values, into=of_weight)
        # The sum over the tokens, as a product: a third of the time of torch's own sum at these shapes.
        _multiply(_ones(len(gradient), gradient.dtype, gradient.device), gradient, into=of_bias[None])
        return gradient @ weight, None, None, None, None


def _multiply(left: Tensor, right: Tensor, *, into: Tensor) -> None:
    if left.dtype is into.dtype:
        torch.mm(left, right, out=into)
    else:
        torch.mm(left, right, into.dtype, out=into)


@functools.cache
def _ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, count), kept: graphs that were recorded read them."""
    return torch.ones(1, count, dtype=dtype, device=device)
