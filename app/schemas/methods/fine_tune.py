"""Training on the labels alone."""

from typing import Literal

from app.schemas.methods.base import MethodParameters


class FineTune(MethodParameters):
    """Train on the hard labels alone."""

    kind = "objective"
    title = "Fine-tuning alone"
    summary = "Cross-entropy on the labels, no teacher: what the student reaches by itself."
    source = "Common practice; the baseline that a distilled student has to beat."
    needs_teacher = False

    type: Literal["fine_tune"] = "fine_tune"
