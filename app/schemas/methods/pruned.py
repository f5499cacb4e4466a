"""Distillation on pruned data."""

from typing import Literal, Self

from pydantic import Field, model_validator

from app.schemas.methods.base import MethodParameters, Temperature


class Pruned(MethodParameters):
    """Distil on a random part of the rows, with a teacher that counts the more the fewer they are."""

    kind = "subset"
    has_default_objective = True
    derived = frozenset({"alpha"})
    title = "KD on pruned data"
    summary = (
        "Distillation on a fraction of the rows of each class, on the whole budget: how much of the data does the "
        "teacher replace? Beside a method that makes up rows, it makes them of those that are kept. The loss is this "
        "method's, but for a method that brings another."
    )
    source = (
        "After Ben-Baruch and others: Distilling the Knowledge in Data Pruning, 2024 (arXiv:2403.07854); the rule for "
        "`alpha` is this project's."
    )

    type: Literal["pruned"] = "pruned"
    fraction: float = Field(default=0.5, gt=0, le=1, description="Share of the rows of each class that is kept.")
    temperature: Temperature = 2.0
    alpha: float = Field(
        default=0.778,
        ge=0,
        le=1,
        description="Weight of the teacher term; the hard labels get 1 - alpha. Where it is left out it follows from "
        "the fraction: 1 at a tenth and less, 0.5 at all rows, on a straight line between them.",
    )

    @model_validator(mode="after")
    def _follow_fraction(self) -> Self:
        if "alpha" not in self.model_fields_set:
            self.alpha = round(min(1.0, 1 - 0.5 * (self.fraction - 0.1) / 0.9), 3)
            self.model_fields_set.discard("alpha")  # nobody said it: no baseline takes it over
        return self
