"""SAGE."""

from typing import Literal

from pydantic import Field

from app.domain import older_jobs
from app.schemas.methods.base import (
    AnchorQuantile,
    Candidates,
    Lift,
    MethodParameters,
    Neighbors,
    Rounds,
    ScoredRows,
    ScoringAlpha,
    SyntheticRatio,
    Targeting,
    Temperature,
    WarmupEpochs,
)


class Sage(MethodParameters):
    """Distil where the student is still weak, on synthetic rows made there."""

    later_fields = frozenset(older_jobs.METHODS["sage"])
    kind = "rows"
    makes_rows = True
    has_default_objective = True
    title = "SAGE"
    summary = (
        "Rounds of distillation: in the high-loss regions of a UMAP projection new rows are made between neighbours "
        "and labelled by the teacher; those on which the student is farthest from it are trained on with the real rows."
    )
    source = (
        "After the published description of SAGE: loss-guided synthesis in an embedding space. Choices that "
        "it leaves open are this project's own."
    )

    type: Literal["sage"] = "sage"
    temperature: Temperature = 2.0
    alpha: ScoringAlpha = 0.9
    rounds: Rounds = 4
    warmup_epochs: WarmupEpochs = 1.0
    synthetic_ratio: SyntheticRatio = 0.5
    lift: Lift = "splice"
    candidates: Candidates = 4.0
    neighbors: Neighbors = 10
    targeting: Targeting = "region"
    anchor_quantile: AnchorQuantile = 0.2
    scored_rows: ScoredRows = 2_048
    early_stopping: bool = Field(
        default=True,
        description="Stop when two rounds bring no gain, or the high-loss mass no longer shrinks.",
    )
