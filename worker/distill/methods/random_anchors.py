"""SAGE's control: the same synthesis, led by nothing."""

from dataclasses import dataclass

from worker.distill.methods.base import Part
from worker.distill.methods.guided import GuidedMethod
from worker.distill.strategies.guided import Lift
from worker.distill.strategies.guides import Anywhere


@dataclass(frozen=True)
class RandomAnchors(GuidedMethod):
    synthetic_ratio: float
    lift: Lift

    def part(self) -> Part:
        return self.guided(Anywhere(), extra_ratio=self.synthetic_ratio, lift=self.lift)
