"""PLD: learn the order in which the teacher would choose.

"PLD: A choice-theoretic list-wise knowledge distillation" (2025, arXiv:2506.12542). Where the paper's temperature
belongs could not be read; here it softens the weights.
"""

from dataclasses import dataclass

import torch

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Objective, known_class, teacher_logits


@dataclass(frozen=True)
class Pld(Method):
    temperature: float

    def part(self) -> Part:
        return Part(objective=PlackettLuce(self.temperature))


class PlackettLuce(Objective):
    """sum over k of q_k [ logsumexp over l >= k of s_l - s_k ], the classes in the order: the right one, then the
    others as the teacher ranks them.

    q = softmax(t / temperature) is how much a place in the order counts. With two classes it is the cross-entropy,
    weighted by what the teacher gives the right class. A synthetic row's right class is the teacher's first.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, answers: Answers) -> torch.Tensor:
        student, teacher = answers.student.float(), teacher_logits(answers)
        ranked = teacher.scatter(1, known_class(answers)[:, None], torch.inf)
        order = ranked.argsort(dim=1, descending=True, stable=True)
        scores = student.gather(1, order)
        weights = torch.softmax(teacher / self.temperature, -1).gather(1, order)
        rest = scores.flip(1).logcumsumexp(1).flip(1)
        return (weights * (rest - scores)).sum(1)
