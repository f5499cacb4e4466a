"""ND."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters


class Nd(MethodParameters):
    """Make the student's features as long as the teacher's, in the direction of their class."""

    kind = "auxiliary"
    of_its_own = frozenset({"weight"})
    title = "ND (KD++)"
    summary = (
        "Adds a loss on the features before the classifier: they are to point along the teacher's mean feature of "
        "their class, their length no shorter than the teacher's. It costs one more pass of the teacher over the "
        "training rows where their outputs are already there."
    )
    source = (
        "Wang and others: Improving Knowledge Distillation via Regularizing Feature Norm and Direction, 2023 "
        "(arXiv:2305.17007)."
    )

    type: Literal["nd"] = "nd"
    weight: float = Field(default=1.0, ge=0, le=1e6, description="Of the loss; the authors take 0.5 to 4.")
