"""LLKD."""

from typing import Literal

from pydantic import Field

from app.schemas.methods.base import MethodParameters


class Llkd(MethodParameters):
    """Let only those rows count of which the teacher is sure and the student is not."""

    kind = "gate"
    of_its_own = frozenset({"momentum"})
    title = "LLKD"
    summary = (
        "Row by row: it counts where the teacher's confidence and the student's entropy reach what is usual for the "
        "class, and as many more of a batch as make up `least_share`. The rows that do not count are computed all the "
        "same."
    )
    source = (
        "After Li and others: Learning with Less: Knowledge Distillation from Large Language Models via Unlabeled "
        "Data, 2024 (arXiv:2411.08028); thresholds and their course are this project's."
    )

    type: Literal["llkd"] = "llkd"
    momentum: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Of the moving averages that are the thresholds. A class's is the plain mean of the batches that "
        "have it, until a further one would count for less than 1 - momentum.",
    )
    least_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of a batch's rows that count at least. At 0 there may be batches of which none does: "
        "nothing is learnt from them.",
    )
    gated: Literal["all", "synthetic"] = Field(
        default="all",
        description="`synthetic`: rows with a label count whatever they are; with `sage`, `random_anchors` or a "
        "dataset's unlabelled rows.",
    )
