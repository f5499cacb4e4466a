"""OPDF: the student's weight matrices are trained as products of more tensors than they need.

Zhan, Lu, Sun and Gao, "Over-parameterized student model via tensor decomposition boosted knowledge distillation", 2024:
matrix product operators, and a loss that keeps the auxiliary tensors near the teacher's. The released code takes that
loss from detached tensors, so that it moves nothing; here it has its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch

from worker.distill.errors import InvalidJob
from worker.distill.families import family_of
from worker.distill.methods.base import Method, Part
from worker.distill.parameterisation import Parameterisation

Tensor = torch.Tensor


@dataclass(frozen=True)
class Opdf(Method):
    tensors: int
    alignment_weight: float
    learning_rate_ratio: float

    def part(self) -> Part:
        return Part(
            parameterisation=lambda: MatrixProducts(self.tensors, self.alignment_weight, self.learning_rate_ratio)
        )


class MatrixProducts(Parameterisation):
    """Queries, keys, values, attention's output and both matrices of the feed-forward network, in every layer."""

    def __init__(self, tensors: int, alignment_weight: float, learning_rate_ratio: float) -> None:
        self.learning_rate_ratio = learning_rate_ratio
        self._tensors = tensors
        self._alignment_weight = alignment_weight
        self._products: dict[str, MatrixProduct] = {}

    def check(self, model: torch.nn.Module) -> None:
        for name in _matrices(model):
            for size in model.get_parameter(name).shape:
                factors(size, name)

    def begin(self, model: torch.nn.Module) -> None:
        for name in _matrices(model):
            self._products[name] = MatrixProduct(name, model.get_parameter(name), self._tensors)
        self.write()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"{name}/{position}": tensor
            for name, product in self._products.items()
            for position, tensor in enumerate(product.tensors)
        }

    def pull_back(self, gradient_of: Callable[[str], Tensor]) -> None:
        weight = self._alignment_weight / len(self._products)
        for name, product in self._products.items():
            gradient = gradient_of(name)
            for tensor in product.tensors:
                tensor.grad = None
            # The chain rule, from the weight on: of the loss above it only its gradient is needed.
            product.written.backward(gradient)
            if weight > 0:
                (weight * product.alignment_loss()).backward()
            gradient.zero_()

    def write(self) -> None:
        for product in self._products.values():
            # With its graph: the next step's gradient goes back through it.
            product.written = product.matrix()
            with torch.no_grad():
                product.weight.copy_(product.written)


def _matrices(model: torch.nn.Module) -> list[str]:
    """The names of the weights that become products."""
    family = family_of(model.config)
    parts = family.layer_parts
    return [
        f"{family.layers_path}.{index}.{part}.weight"
        for index in range(len(family.layers(model)))
        for part in (parts.query, parts.key, parts.value, parts.output, parts.up, parts.down)
    ]


class MatrixProduct:
    """A weight (outputs, inputs) as a chain of `tensors`: the matrix product operator with factors (a, 1, ..., 1, b) of
    both of its dimensions.

    W[(o_1 o_2), (i_1 i_2)] = T_1[o_1 i_1, :] M_1 ... M_(n-2) T_n[:, o_2 i_2]: outputs = o_1 o_2 and inputs = i_1 i_2,
    each as near to a square as it goes, the middle tensors square matrices. No bond is cut, so the chain is the matrix.
    In the symmetric gauge of its singular values, W = U S V, it begins as U sqrt(S), I, ..., I, sqrt(S) V.
    """

    def __init__(self, name: str, weight: Tensor, tensors: int) -> None:
        """Raises InvalidJob where a dimension of the weight has no factors."""
        self.weight = weight
        (self._outputs, self._inputs) = (factors(size, name) for size in weight.shape)
        interleaved = self._interleave(weight.detach().double().cpu())
        left, singular, right = torch.linalg.svd(interleaved, full_matrices=False)
        root = singular.sqrt()
        middle = [torch.eye(len(root), dtype=torch.float64) for _ in range(tensors - 2)]
        chain = [left * root, *middle, root[:, None] * right]
        self.tensors = [torch.nn.Parameter(tensor.float().contiguous().to(weight.device)) for tensor in chain]
        # The student begins with layers of the teacher, so these are the teacher's tensors. The central one is free.
        central = tensors // 2
        self._aligned = [position for position in range(tensors) if position != central]
        self.written: Tensor  # the newest product, with its graph, once it is written
        self._teachers = [self.tensors[position].detach().clone() for position in self._aligned]

    def matrix(self) -> Tensor:
        """(outputs, inputs) the product."""
        product: Tensor = self.tensors[-1]
        for tensor in reversed(self.tensors[:-1]):  # the small ones first
            product = tensor @ product
        (o1, o2), (i1, i2) = self._outputs, self._inputs
        return product.view(o1, i1, o2, i2).transpose(1, 2).reshape(o1 * o2, i1 * i2)

    def alignment_loss(self) -> Tensor:
        """The sum, over all tensors but the central one, of the mean squared distance to the teacher's."""
        losses = [
            torch.nn.functional.mse_loss(self.tensors[position], teachers)
            for position, teachers in zip(self._aligned, self._teachers, strict=True)
        ]
        return cast(Tensor, sum(losses))

    def _interleave(self, weight: Tensor) -> Tensor:
        (o1, o2), (i1, i2) = self._outputs, self._inputs
        return weight.view(o1, o2, i1, i2).transpose(1, 2).reshape(o1 * i1, o2 * i2)


def factors(size: int, name: str) -> tuple[int, int]:
    """The two factors of `size` that are nearest to each other, the greater one first."""
    for smaller in range(int(size**0.5), 1, -1):
        if size % smaller == 0:
            return size // smaller, smaller
    raise InvalidJob(
        f"opdf cannot make a product of {name}: its dimension {size} has no factors. Leave opdf out for this teacher."
    )
