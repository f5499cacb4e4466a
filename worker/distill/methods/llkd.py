"""LLKD: only rows count of which the teacher is sure and the student is not.

After Li et al., "Learning with less: knowledge distillation from large language models via unlabeled data" (2024);
thresholds and their course are this project's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Gate, teacher_logits

_MANY_BATCHES = 10**9


@dataclass(frozen=True)
class Llkd(Method):
    revision = 2

    momentum: float
    least_share: float
    gated: Literal["all", "synthetic"]

    def part(self) -> Part:
        return Part(gate=SureTeacherUnsureStudent(self))


class SureTeacherUnsureStudent(Gate):
    """A row counts where the teacher's confidence and the student's entropy both reach what is usual for its class.

    Its class is the teacher's first choice; what is usual, a moving average over the batches that have the class: at
    first their plain mean, until one more counts for no more than 1 - momentum.
    Where a batch keeps less than `least_share` of its rows, those with the greatest product of both fill it up. Kept
    rows count alike, and a batch as much as ever; one of which no row is kept, as there may be without a least share,
    costs nothing.
    """

    def __init__(self, parameters: Llkd) -> None:
        self.parameters = parameters
        self.confidence: dict[int, float] = {}  # by class, once it was seen
        self.entropy: dict[int, float] = {}
        self.batches: dict[int, int] = {}  # by class, those that had it
        self.rows_seen = self.rows_kept = 0  # since facts() were told

    def __call__(self, answers: Answers) -> torch.Tensor:
        own = self.parameters
        teacher = torch.softmax(teacher_logits(answers), -1)
        log_student = torch.log_softmax(answers.student.detach().float(), -1)
        confidence, classes = teacher.max(-1)
        entropy = -(log_student.exp() * log_student).sum(-1)
        is_gated = torch.ones_like(answers.has_label) if own.gated == "all" else ~answers.has_label
        if not is_gated.any():
            return torch.ones_like(entropy)
        keep = confidence >= self._usual(self.confidence, classes)
        keep &= entropy >= self._usual(self.entropy, classes)
        keep = _filled(keep & is_gated, is_gated, confidence * entropy, own.least_share)
        self.rows_seen += int(is_gated.sum())
        self.rows_kept += int((keep & is_gated).sum())
        self._learn(classes[is_gated], confidence[is_gated], entropy[is_gated])
        counts = (keep | ~is_gated).float()
        return counts / counts.mean().clamp(min=1e-12)

    def facts(self) -> dict[str, float]:
        seen, kept = self.rows_seen, self.rows_kept
        self.rows_seen = self.rows_kept = 0
        return {"kept_share": kept / seen} if seen else {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "confidence": list(self.confidence.items()),
            "entropy": list(self.entropy.items()),
            "batches": list(self.batches.items()),
            "rows_seen": self.rows_seen,
            "rows_kept": self.rows_kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.confidence, self.entropy = dict(state["confidence"]), dict(state["entropy"])
        # A release that did not count them weighed each alike.
        self.batches = dict(state.get("batches", [(label, _MANY_BATCHES) for label in self.confidence]))
        self.rows_seen, self.rows_kept = state["rows_seen"], state["rows_kept"]

    def _usual(self, averages: dict[int, float], classes: torch.Tensor) -> torch.Tensor:
        """(rows,) the threshold of each row's class; of a class not seen before, one that all rows pass."""
        return torch.tensor([averages.get(label, 0.0) for label in classes.tolist()], device=classes.device)

    def _learn(self, classes: torch.Tensor, confidence: torch.Tensor, entropy: torch.Tensor) -> None:
        for label in classes.unique().tolist():
            before = self.batches.get(label, 0)
            momentum = min(self.parameters.momentum, before / (before + 1))
            for averages, values in ((self.confidence, confidence), (self.entropy, entropy)):
                mean = float(values[classes == label].double().mean())
                averages[label] = momentum * averages.get(label, 0.0) + (1 - momentum) * mean
            self.batches[label] = before + 1


def _filled(keep: torch.Tensor, is_gated: torch.Tensor, worth: torch.Tensor, least_share: float) -> torch.Tensor:
    """`keep`, and the rows of greatest worth where they are too few."""
    least = -(-least_share * int(is_gated.sum()) // 1)
    missing = int(least) - int(keep.sum())
    if missing <= 0:
        return keep
    ranked = torch.where(is_gated & ~keep, worth, -torch.inf).argsort(descending=True, stable=True)
    return keep.scatter(0, ranked[:missing], True)
