"""Training on the labels alone."""

from dataclasses import dataclass

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import CrossEntropy


@dataclass(frozen=True)
class FineTune(Method):
    def part(self) -> Part:
        return Part(objective=CrossEntropy())
