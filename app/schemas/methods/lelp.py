"""LELP."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters, Temperature


class Lelp(MethodParameters):
    """Match the teacher's probabilities, and where within a class the teacher sees a row."""

    kind = "objective"
    title = "LELP"
    summary = (
        "Divides each class into subclasses along the directions in which the teacher's features vary most and which "
        "its classifier does not see, and teaches the student them beside the classes: more to learn from where there "
        "are few classes. In training the student has a second head for the subclasses, which is left behind. It costs "
        "one more pass of the teacher over the training rows where their outputs are already there."
    )
    source = (
        "After Loo and others: Linear Projections of Teacher Embeddings for Few-Class Distillation, 2024 "
        "(arXiv:2409.20449); how the student's probability of a subclass is made up is this project's."
    )

    type: Literal["lelp"] = "lelp"
    temperature: Temperature = 2.0
    alpha: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Weight of the teacher term; the hard labels get 1 - alpha. The authors leave them out.",
    )
    subclasses: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Of each class; one is plain distillation. The more classes, the less they bring.",
    )
    subclass_temperature: float = Field(
        default=1.0, ge=0.05, le=100, description="The higher, the less one subclass stands out for a row."
    )
