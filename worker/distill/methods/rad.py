"""RAD: rows on which the student is torn, without falling for those on which the teacher is wrong.

After Baykal et al., "Robust active distillation" (2023), from memory of the paper and a derivation of this project's:
the distribution is the one of greatest gain in the worst case.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import Answers, Objective
from worker.distill.selection import Region
from worker.distill.strategies.base import StrategyContext
from worker.distill.strategies.guides import Guide

_LEAST_GAIN = 1e-6
# Of no mistakes the row of greatest gain is drawn alone, of few a handful; what a few hundred rows of validation say of
# a teacher that makes hardly any is not worth that.
_LEAST_ERROR = 0.05


@dataclass(frozen=True)
class Rad(Method):
    revision = 2

    teacher_error: float | None

    def part(self) -> Part:
        return Part(guide=RobustMargins(self.teacher_error))


@dataclass(frozen=True)
class Gain(Objective):
    """1 - (p_1 - p_2), the student's two greatest probabilities: what is to be gained by a row."""

    needs_teacher = False

    def __call__(self, answers: Answers) -> torch.Tensor:
        first, second = torch.softmax(answers.student.float(), -1).topk(2).values.unbind(-1)
        return 1 - (first - second)


class RobustMargins(Guide):
    """The rows of greatest gain, drawn so that no wrong answers of the teacher, few as they are, take much of it."""

    def __init__(self, teacher_error: float | None) -> None:
        self.teacher_error = teacher_error

    def region(
        self,
        scored: np.ndarray,
        neighbors: int,  # noqa: ARG002 - the guide's
        context: StrategyContext,
    ) -> tuple[Region, float | None]:
        error = max(context.teacher_error if self.teacher_error is None else self.teacher_error, _LEAST_ERROR)
        gains = context.score(Gain(), scored)
        return robust_region(gains, scored, min(len(scored) - 1, math.ceil(error * len(scored)))), None


def robust_region(gains: np.ndarray, rows: np.ndarray, mistakes: int) -> Region:
    """The draw of one row whose expected gain is greatest if on any `mistakes` of the `rows` there is none.

    With gains g falling, H_t = sum of 1 / g_i for i <= t, and t the place above `mistakes` where (t - mistakes) / H_t
    is greatest: row i <= t is drawn with 1 / (g_i H_t), so that each of them brings the same.
    """
    order = np.argsort(-gains, kind="stable")
    inverse = 1 / np.maximum(gains[order].astype(np.float64), _LEAST_GAIN)
    sums = np.cumsum(inverse)
    worth = (np.arange(1, len(sums) + 1) - mistakes) / sums
    count = mistakes + 1 + int(np.argmax(worth[mistakes:]))
    return Region(rows[order[:count]], inverse[:count] / sums[count - 1])
