"""What a student is taught: a loss per row, so that weights, scores and every method share one form."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from worker.distill.rows import Predictions


@dataclass(frozen=True)
class Answers:
    """What student and teacher say to the rows of one batch, and what is known of the rows."""

    student: torch.Tensor  # (rows, classes) logits
    teacher: torch.Tensor | None  # (rows, classes) logits
    labels: torch.Tensor  # (rows,) int64
    has_label: torch.Tensor  # (rows,) bool: somebody vouches for the label
    is_real: torch.Tensor | None = None  # (rows,) bool: no method made it up; None: as all that have a label
    # (rows, width) what the last linear layer reads, before dropout; the teacher's where an objective needs them.
    student_features: torch.Tensor | None = None
    teacher_features: torch.Tensor | None = None


class Objective(ABC):
    """A loss. One that carries something from step to step (`after_step`) also says what a checkpoint must keep."""

    needs_teacher: bool = True
    needs_features: bool = False  # of the teacher
    is_of_batch: bool = False  # the losses of its rows are one of all of them

    @abstractmethod
    def __call__(self, answers: Answers) -> torch.Tensor:
        """(rows,) loss of each row, in fp32; the step follows their mean."""

    def check(self, classes: int, width: int) -> None:  # noqa: B027 - most go with every teacher
        """Raises InvalidJob where it cannot learn from a teacher of so many classes on features so wide: before the
        hours, not after."""

    def begin(self, teacher: Predictions | None, labels: np.ndarray) -> None:  # noqa: B027 - most need nothing
        """Before the first step, also of a resumed run: what the teacher says to the training rows, and their
        `labels` (rows,), where there is none the teacher's first choice."""

    def trained_beside(self) -> dict[str, torch.nn.Parameter]:
        """What is trained with the student and not kept, by name; there from `begin` on, wherever it began."""
        return {}

    def after_step(self, step: int, total_steps: int) -> None:  # noqa: B027 - most carry nothing
        """After optimiser step number `step`, from 1, of `total_steps`."""

    def facts(self) -> dict[str, float]:
        """What it tells after a round, for the record. Asked once: what is counted by the round begins anew with it."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it carries from step to step, as plain JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from what `state_dict` gave."""


class Gate(ABC):
    """How much each row of a batch counts, by what both models say to it. It may carry state as an objective does."""

    @abstractmethod
    def __call__(self, answers: Answers) -> torch.Tensor:
        """(rows,) weights without a gradient, 1 in the mean."""

    def facts(self) -> dict[str, float]:
        """As of an objective."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - some carry nothing
        """Go on from what `state_dict` gave."""


class CrossEntropy(Objective):
    """Cross-entropy with the label; a row without a label costs nothing."""

    needs_teacher = False

    def __call__(self, answers: Answers) -> torch.Tensor:
        return hard_loss(answers)


@dataclass(frozen=True)
class KnowledgeDistillation(Objective):
    """(1 - alpha) CE(label, student) + alpha temperature^2 KL(teacher || student), both softened.

    The cross-entropy is left out where no real label exists. Hinton, Vinyals and Dean, "Distilling the
    Knowledge in a Neural Network" (2015), section 2; temperature^2 keeps the gradient's size.
    """

    temperature: float
    alpha: float

    def __call__(self, answers: Answers) -> torch.Tensor:
        student_log = functional.log_softmax(answers.student.float() / self.temperature, dim=-1)
        teacher_log = functional.log_softmax(teacher_logits(answers) / self.temperature, dim=-1)
        divergence = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)
        return (1 - self.alpha) * hard_loss(answers) + self.alpha * self.temperature**2 * divergence


class Combined(Objective):
    """An objective and what is added to it, each as it is alone; of the rows that a gate lets count, but for what is of
    the batch as a whole."""

    def __init__(self, objective: Objective, auxiliaries: Sequence[Objective], gate: Gate | None = None) -> None:
        self.parts = [objective, *auxiliaries]
        self.gate = gate
        self.needs_teacher = gate is not None or any(part.needs_teacher for part in self.parts)
        self.needs_features = any(part.needs_features for part in self.parts)

    def __call__(self, answers: Answers) -> torch.Tensor:
        if self.gate is None:
            first, *others = (part(answers) for part in self.parts)
            return sum(others, start=first)
        weights = self.gate(answers)
        first, *others = (part(answers) if part.is_of_batch else part(answers) * weights for part in self.parts)
        return sum(others, start=first)

    def check(self, classes: int, width: int) -> None:
        for part in self.parts:
            part.check(classes, width)

    def begin(self, teacher: Predictions | None, labels: np.ndarray) -> None:
        for part in self.parts:
            part.begin(teacher, labels)

    def trained_beside(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"{number}.{name}": parameter
            for number, part in enumerate(self.parts)
            for name, parameter in part.trained_beside().items()
        }

    def after_step(self, step: int, total_steps: int) -> None:
        for part in self.parts:
            part.after_step(step, total_steps)

    def facts(self) -> dict[str, float]:
        found = {name: value for part in self.parts for name, value in part.facts().items()}
        return found if self.gate is None else found | self.gate.facts()

    def state_dict(self) -> dict[str, Any]:
        gate = {} if self.gate is None else {"gate": self.gate.state_dict()}
        return {"parts": [part.state_dict() for part in self.parts], **gate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        if self.gate is not None:
            self.gate.load_state_dict(state["gate"])


def hard_loss(answers: Answers) -> torch.Tensor:
    """(rows,) cross-entropy with the label, zero where nobody vouches for it."""
    return functional.cross_entropy(answers.student.float(), answers.labels, reduction="none") * answers.has_label


def known_class(answers: Answers) -> torch.Tensor:
    """(rows,) the label, or the teacher's first choice where nobody vouches for it."""
    return torch.where(answers.has_label, answers.labels, teacher_logits(answers).argmax(1))


def teacher_logits(answers: Answers) -> torch.Tensor:
    """(rows, classes) fp32; raises ValueError where there are none."""
    if answers.teacher is None:
        raise ValueError("this objective needs the teacher's logits, got None.")
    return answers.teacher.float()
