"""BD-KD: both directions of the divergence, the one that the student needs weighing more.

Amara et al., "BD-KD: Balancing the divergences for online knowledge distillation" (2022), with a teacher that stays as
it is; the paper's weights were not to be had, these are this project's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Objective, hard_loss, teacher_logits


@dataclass(frozen=True)
class BdKd(Method):
    temperature: float
    weight: float
    emphasis: float

    def part(self) -> Part:
        return Part(objective=BalancedDivergences(self))


class BalancedDivergences(Objective):
    """CE(label, student) + weight temperature^2 [ f KL(teacher || student) + r KL(student || teacher) ].

    Row by row: where the student is surer than the teacher (of lower entropy), f = emphasis and r = 1, which spreads
    it; else f = 1 and r = emphasis, which gathers it.
    """

    def __init__(self, parameters: BdKd) -> None:
        self.parameters = parameters

    def __call__(self, answers: Answers) -> torch.Tensor:
        own = self.parameters
        student = functional.log_softmax(answers.student.float() / own.temperature, -1)
        teacher = functional.log_softmax(teacher_logits(answers) / own.temperature, -1)
        is_surer = _entropy(student.detach()) < _entropy(teacher)
        forward_weight = torch.where(is_surer, own.emphasis, 1.0)
        reverse_weight = torch.where(is_surer, 1.0, own.emphasis)
        forward = (teacher.exp() * (teacher - student)).sum(-1)
        reverse = (student.exp() * (student - teacher)).sum(-1)
        divergence = forward_weight * forward + reverse_weight * reverse
        return hard_loss(answers) + own.weight * own.temperature**2 * divergence


def _entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
