"""RAD."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters


class Rad(MethodParameters):
    """Draw rows on which the student is torn, without falling for those on which the teacher is wrong."""

    kind = "guide"
    title = "RAD"
    summary = (
        "Leads the rounds of `sage` or `oversample` instead of their high loss: rows of small margin between "
        "the student's two first classes, by the distribution that gains most if the teacher's mistakes lie where "
        "they hurt most. Rows are scored by that margin, so their `targeting` and `anchor_quantile`, and the "
        "`neighbors` of `oversample`, have no meaning then."
    )
    source = (
        "After Baykal and others: Robust Active Distillation, 2023 (arXiv:2210.01213); the share of mistakes and the "
        "derivation are this project's."
    )

    type: Literal["rad"] = "rad"
    teacher_error: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Share of rows on which the teacher is taken to be wrong; null: as on the validation rows. Less "
        "than 0.05 counts as that: no row is drawn over and over.",
    )
