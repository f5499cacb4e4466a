"""Answers of two models to a few rows, as the losses get them."""

import torch

from worker.distill.objectives import Answers


def some_answers(
    student: torch.Tensor | None = None,
    teacher: torch.Tensor | None = None,
    *,
    rows: int = 8,
    classes: int = 5,
    seed: int = 0,
    labels: list[int] | None = None,
    has_label: list[bool] | None = None,
    is_real: list[bool] | None = None,
) -> Answers:
    """Random logits and labels but for what is given."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, classes, generator=generator) if student is None else student
    teacher = torch.randn(student.shape, generator=generator) if teacher is None else teacher
    drawn = torch.randint(student.shape[1], (len(student),), generator=generator)
    return Answers(
        student=student,
        teacher=teacher,
        labels=drawn if labels is None else torch.tensor(labels),
        has_label=torch.ones(len(student), dtype=torch.bool) if has_label is None else torch.tensor(has_label),
        is_real=None if is_real is None else torch.tensor(is_real),
    )
