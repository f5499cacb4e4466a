"""SAGE's control without synthesis."""

from typing import Literal

from pydantic import Field

from app.domain import older_jobs
from app.schemas.methods.base import (
    AnchorQuantile,
    MethodParameters,
    Neighbors,
    Rounds,
    ScoredRows,
    ScoringAlpha,
    Targeting,
    Temperature,
    WarmupEpochs,
)


class Oversample(MethodParameters):
    """SAGE's other control: the same high-loss rows again, none made up."""

    later_fields = frozenset(older_jobs.METHODS["oversample"])
    kind = "rows"
    has_default_objective = True
    title = "Oversampling"
    summary = "Repeats the high-loss real rows instead of synthesising: shows what the synthesis is worth."
    source = "A control of this project's own, under the same budget as SAGE."

    type: Literal["oversample"] = "oversample"
    temperature: Temperature = 2.0
    alpha: ScoringAlpha = 0.9
    rounds: Rounds = 4
    warmup_epochs: WarmupEpochs = 1.0
    oversample_ratio: float = Field(default=0.5, ge=0, le=4, description="Repeated rows for each real row in a round.")
    neighbors: Neighbors = Field(
        default=10,
        description="Nearest rows in the 2-D projection that form a row's region. It has no meaning with "
        "`targeting: rows` or led by `rad`, which look at single rows.",
    )
    targeting: Targeting = "region"
    anchor_quantile: AnchorQuantile = 0.2
    scored_rows: ScoredRows = 2_048
