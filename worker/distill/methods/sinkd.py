"""SinKD: the batch's answers as a whole, by optimal transport.

Cui et al., "Sinkhorn distance minimization for knowledge distillation" (2024), with the constants of the authors' code.
"""

from dataclasses import dataclass

import torch

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Objective, teacher_logits


@dataclass(frozen=True)
class Sinkd(Method):
    weight: float
    temperature: float
    epsilon: float
    iterations: int
    debiased: bool

    def part(self) -> Part:
        return Part(auxiliary=SinkhornDistance(self))


class SinkhornDistance(Objective):
    """weight S(student, teacher), the Sinkhorn distance of the softened probabilities of a batch's rows.

    It sees the batch and not the pairing of rows, so it stands beside a loss that does. Real and synthetic rows are
    transported apart from each other. Every row carries the distance of its own kind.
    """

    is_of_batch = True

    def __init__(self, parameters: Sinkd) -> None:
        self.parameters = parameters

    def __call__(self, answers: Answers) -> torch.Tensor:
        own = self.parameters
        student = torch.softmax(answers.student.float() / own.temperature, -1)
        teacher = torch.softmax(teacher_logits(answers) / own.temperature, -1)
        losses = torch.zeros(len(student), dtype=student.dtype, device=student.device)
        is_real = answers.has_label if answers.is_real is None else answers.is_real
        for which in (is_real, ~is_real):
            if which.any():
                distance = self._distance(student[which], teacher[which])
                losses = torch.where(which, distance, losses)
        return own.weight * losses

    def _distance(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        own = self.parameters
        across = sinkhorn_distance(student, teacher, own.epsilon, own.iterations)
        if not own.debiased:
            return across
        # With the entropy, a set has a distance to itself; less both, equal sets are at zero.
        within = [sinkhorn_distance(each, each, own.epsilon, own.iterations) for each in (student, teacher)]
        return across - sum(within) / 2


def sinkhorn_distance(first: torch.Tensor, second: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """The mean cost of moving the rows of `first` (rows, classes) onto those of `second`, by the plan that `transport`
    finds; a move costs the sum of the absolute differences."""
    costs = torch.cdist(first, second, p=1)
    return (transport(costs, epsilon, iterations) * costs).sum() / len(first)


def transport(costs: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """(rows, rows) plan of which every column sums to 1: exp(-costs / epsilon), its rows and then its columns scaled to
    sum to 1, over and over; by logarithms, so that no small epsilon empties it."""
    plan = -costs / epsilon
    for _ in range(iterations):
        plan = plan - plan.logsumexp(1, keepdim=True)
        plan = plan - plan.logsumexp(0, keepdim=True)
    return plan.exp()
