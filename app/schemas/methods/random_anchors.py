"""SAGE's control without a guide."""

from typing import Literal

from pydantic import Field

from app.domain import older_jobs
from app.schemas.methods.base import (
    Alpha,
    Lift,
    MethodParameters,
    Neighbors,
    Rounds,
    SyntheticRatio,
    Temperature,
    WarmupEpochs,
)


class RandomAnchors(MethodParameters):
    """SAGE's control: rows made in the same way from rows drawn at random, all of them kept."""

    later_fields = frozenset(older_jobs.METHODS["random_anchors"])
    kind = "rows"
    makes_rows = True
    has_default_objective = True
    refuses = {"rad": "anchors that are led are not random"}  # noqa: RUF012 - a ClassVar of the base
    title = "Random anchors"
    summary = (
        "New rows made as SAGE makes them, but from rows drawn at random, and all of them kept: shows what SAGE's "
        "choice is worth."
    )
    source = "A control of this project's own, under the same budget as SAGE."

    type: Literal["random_anchors"] = "random_anchors"
    temperature: Temperature = Field(
        default=2.0,
        description="Softens both models' probabilities before they are compared. It has no meaning where another "
        "method brings the loss.",
    )
    alpha: Alpha = Field(
        default=0.9,
        description="Weight of the teacher term; the hard labels get 1 - alpha. It has no meaning where another method "
        "brings the loss.",
    )
    rounds: Rounds = 4
    warmup_epochs: WarmupEpochs = 1.0
    synthetic_ratio: SyntheticRatio = 0.5
    lift: Lift = "splice"
    neighbors: Neighbors = 10
