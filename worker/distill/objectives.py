"""What a student is taught: a loss per row, so that weights, scores and every method share one form."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as functional


class Objective(Protocol):
    needs_teacher: bool

    def __call__(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor | None,
        labels: torch.Tensor,
        has_label: torch.Tensor,
    ) -> torch.Tensor:
        """(rows,) loss of each row, from logits (rows, classes), labels (rows,), has_label (rows,) bool."""
        ...


class CrossEntropy:
    """Cross-entropy with the label; a row without a label costs nothing."""

    needs_teacher = False

    def __call__(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor | None,  # noqa: ARG002 - the protocol's
        labels: torch.Tensor,
        has_label: torch.Tensor,
    ) -> torch.Tensor:
        return functional.cross_entropy(student_logits.float(), labels, reduction="none") * has_label


@dataclass(frozen=True)
class KnowledgeDistillation:
    """(1 - alpha) CE(label, student) + alpha temperature^2 KL(teacher || student), both softened.

    The cross-entropy is left out where no real label exists. Hinton, Vinyals and Dean, "Distilling the
    Knowledge in a Neural Network" (2015), section 2; temperature^2 keeps the gradient's size.
    """

    temperature: float
    alpha: float
    needs_teacher = True

    def __call__(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor | None,
        labels: torch.Tensor,
        has_label: torch.Tensor,
    ) -> torch.Tensor:
        if teacher_logits is None:
            raise ValueError("KnowledgeDistillation needs the teacher's logits, got None.")
        student_logits = student_logits.float()
        student_log = functional.log_softmax(student_logits / self.temperature, dim=-1)
        teacher_log = functional.log_softmax(teacher_logits.float() / self.temperature, dim=-1)
        divergence = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)
        hard = functional.cross_entropy(student_logits, labels, reduction="none") * has_label
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * divergence
