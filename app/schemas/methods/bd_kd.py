"""BD-KD."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters, Temperature


class BdKd(MethodParameters):
    """Weigh both directions of the divergence by which of them the student needs."""

    kind = "objective"
    of_its_own = frozenset({"weight"})
    title = "BD-KD"
    summary = (
        "Cross-entropy with the labels, and KL divergence in both directions: the forward one weighs more for rows on "
        "which the student is surer than the teacher, the reverse one for the others."
    )
    source = (
        "Amara and others: BD-KD: Balancing the Divergences for Online Knowledge Distillation, 2022 "
        "(arXiv:2212.12965), with a frozen teacher; the weights are this project's."
    )

    type: Literal["bd_kd"] = "bd_kd"
    temperature: Temperature = 2.0
    weight: float = Field(default=1.0, ge=0, le=1e6, description="Of the divergences; the labels have 1.")
    emphasis: float = Field(default=2.0, ge=1, le=100, description="How much more the direction that is needed weighs.")
