"""TAID: the target moves from the student's own distribution to the teacher's.

Shing, Misaki, Bao, Yokoi and Akiba, "TAID: Temporally adaptive interpolated distillation for efficient knowledge
transfer in language models" (2025), with the constants and the order of the authors' code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Objective, hard_loss, teacher_logits

_EPSILON = 1e-15


@dataclass(frozen=True)
class Taid(Method):
    alpha: float
    lambda_start: float
    lambda_end: float
    adaptation_rate: float
    momentum: float

    def part(self) -> Part:
        return Part(objective=InterpolatedTarget(self))


class InterpolatedTarget(Objective):
    """(1 - alpha) CE(label, student) + alpha CE(target, student), target = softmax((1 - lambda) s + lambda t).

    s are the student's own logits, without a gradient; t the teacher's. Lambda rises with the steps, faster where
    the loss falls fast. The value is a cross-entropy: at its least it is the target's entropy, not zero.
    """

    def __init__(self, parameters: Taid) -> None:
        self.parameters = parameters
        self.interpolation = parameters.lambda_start  # lambda
        self.mean_gain = 0.0  # of the loss, relative, from step to step: a moving average
        self.last_loss: float | None = None
        self._loss: torch.Tensor | None = None  # of the step under way

    def __call__(self, answers: Answers) -> torch.Tensor:
        student = answers.student.float()
        target = target_of(student, teacher_logits(answers), self.interpolation)
        losses = -(target * functional.log_softmax(student, -1)).sum(-1)
        self._loss = losses.detach().mean()
        alpha = self.parameters.alpha
        return (1 - alpha) * hard_loss(answers) + alpha * losses

    def after_step(self, step: int, total_steps: int) -> None:
        assert self._loss is not None, "a step has a loss"
        loss, before, self._loss = float(self._loss), self.last_loss, None
        self.last_loss = loss
        if before is None:
            return
        own = self.parameters
        gain = (before - loss) / (before + _EPSILON)
        self.mean_gain = own.momentum * self.mean_gain + (1 - own.momentum) * gain
        adapted = self.interpolation + own.adaptation_rate * _sigmoid(self.mean_gain) * (1 - self.interpolation)
        ramp = own.lambda_start + (own.lambda_end - own.lambda_start) * step / total_steps
        self.interpolation = min(own.lambda_end, max(ramp, adapted))

    def facts(self) -> dict[str, float]:
        return {"taid_lambda": self.interpolation}

    def state_dict(self) -> dict[str, Any]:
        return {"interpolation": self.interpolation, "mean_gain": self.mean_gain, "last_loss": self.last_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.interpolation, self.mean_gain = state["interpolation"], state["mean_gain"]
        self.last_loss = state["last_loss"]


def target_of(student: torch.Tensor, teacher: torch.Tensor, interpolation: float) -> torch.Tensor:
    """(rows, classes) probabilities, without a gradient, of the logits' weighted mean."""
    return functional.softmax((1 - interpolation) * student.detach() + interpolation * teacher, -1)


def _sigmoid(value: float) -> float:
    # Relative gains are below 1, but may be far below -1 after a bad step.
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
