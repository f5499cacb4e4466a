"""PLD."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters, Temperature


class Pld(MethodParameters):
    """Learn the order in which the teacher ranks the classes, the right one first."""

    kind = "objective"
    of_its_own = frozenset({"temperature"})
    title = "PLD"
    summary = (
        "A Plackett-Luce ranking loss over the classes, each place weighted by the teacher's probability; it replaces "
        "cross-entropy and divergence. With two classes it is a weighted cross-entropy."
    )
    source = (
        "PLD: A Choice-Theoretic List-Wise Knowledge Distillation, 2025 (arXiv:2506.12542). Where its temperature "
        "belongs could not be read; here it softens the weights."
    )

    type: Literal["pld"] = "pld"
    temperature: Temperature = Field(
        default=1.0,
        description="Softens the teacher's probabilities by which the places count: the higher, the less the right "
        "class's place outweighs the others.",
    )
