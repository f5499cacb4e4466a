"""TAID."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.methods.base import MethodParameters


class Taid(MethodParameters):
    """Move the target from the student's own answer to the teacher's while training goes on."""

    kind = "objective"
    of_its_own = frozenset({"momentum"})
    title = "TAID"
    summary = (
        "Cross-entropy to a mixture of the student's own logits and the teacher's, whose share rises with the steps, "
        "faster while the loss falls."
    )
    source = (
        "Shing and others: TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in "
        "Language Models, 2025 (arXiv:2501.16937); constants as in the authors' code."
    )

    type: Literal["taid"] = "taid"
    alpha: float = Field(
        default=1.0, ge=0, le=1, description="Weight of the interpolated term; the hard labels get 1 - alpha."
    )
    lambda_start: float = Field(default=0.4, ge=0, le=1, description="The teacher's share of the target at the start.")
    lambda_end: float = Field(
        default=1.0, ge=0, le=1, description="The teacher's share at the last step; above 0, not below `lambda_start`."
    )
    adaptation_rate: float = Field(
        default=5e-4, ge=0, le=1, description="How much a step that brings something adds to the share."
    )
    momentum: float = Field(default=0.99, ge=0, lt=1, description="Of the moving average of what the steps brought.")

    @model_validator(mode="after")
    def _check_order(self) -> "Taid":
        if self.lambda_end < self.lambda_start:
            raise PydanticCustomError(
                "lambda_falls",
                "lambda_end {end} is below lambda_start {start}; the teacher's share only rises: raise lambda_end or "
                "lower lambda_start",
                {"start": self.lambda_start, "end": self.lambda_end},
            )
        return self
