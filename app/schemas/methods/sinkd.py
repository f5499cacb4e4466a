"""SinKD."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters, Temperature


class Sinkd(MethodParameters):
    """Bring the batch's answers as a whole near the teacher's, by optimal transport."""

    kind = "auxiliary"
    of_its_own = frozenset({"weight", "temperature"})  # those of a loss beside another, which has its own
    title = "SinKD"
    summary = (
        "Adds the Sinkhorn distance between the student's and the teacher's probabilities over a batch: what moves "
        "without a partner in the other batch costs."
    )
    source = (
        "Cui and others: Sinkhorn Distance Minimization for Knowledge Distillation, 2024 (arXiv:2402.17110); "
        "temperature, entropy and iterations as in the authors' code, a debiased form of this project's own."
    )

    type: Literal["sinkd"] = "sinkd"
    weight: float = Field(
        default=0.0256,
        ge=0,
        le=1e6,
        description="Of the distance, a mean over the batch's rows. The authors weigh the sum over 32 rows by 0.0008, "
        "beside a divergence without temperature²: against `kd` at its default temperature 0.1024 is their ratio.",
    )
    temperature: Temperature = 2.0
    epsilon: float = Field(default=0.1, ge=1e-4, le=100, description="Weight of the plan's entropy; small is sharp.")
    iterations: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="How often rows and columns are scaled. For each time the step keeps two numbers for every pair of "
        "the batch's rows.",
    )
    debiased: bool = Field(
        default=False, description="Less half of each side's distance to itself: zero where both say the same."
    )
