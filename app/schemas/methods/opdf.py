"""OPDF."""

from types import MappingProxyType
from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters


class Opdf(MethodParameters):
    """Train each weight matrix as a product of more tensors than it needs; the student that is kept is a plain one."""

    kind = "parameterisation"
    title = "OPDF"
    summary = (
        "Over-parameterises the student in training: every weight matrix of its layers is a chain of tensors (a matrix "
        "product operator), multiplied out again at the end. More trainable parameters, the same student."
    )
    source = (
        "Zhan and others: Over-parameterized Student Model via Tensor Decomposition Boosted Knowledge Distillation, "
        "2024 (arXiv:2411.06448); with a gradient for the alignment loss, which the released code lacks."
    )
    needs_teacher = False
    earlier_defaults = MappingProxyType({"alignment_weight": 1e-4})  # the authors'

    type: Literal["opdf"] = "opdf"
    tensors: int = Field(default=5, ge=3, le=9, description="Tensors in each chain.")
    learning_rate_ratio: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description="Learning rate of the tensors over `training.learning_rate`: a step of every tensor of a chain "
        "moves their product by more than one of the matrix itself.",
    )
    alignment_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="Weight of the mean squared distance of the tensors, but for the central one, to the teacher's. "
        "The mean is over the entries of a tensor, tens of thousands: at the authors' 1e-4 its gradient is lost in the "
        "rounding of the loss's own, and costs its time; it takes thousands to weigh as much.",
    )
