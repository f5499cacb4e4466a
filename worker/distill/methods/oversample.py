"""SAGE's other control: the same rows of high loss, repeated instead of synthesised from."""

from dataclasses import dataclass

from worker.distill.methods.base import Part
from worker.distill.methods.guided import GuidedMethod, Targeting


@dataclass(frozen=True)
class Oversample(GuidedMethod):
    oversample_ratio: float
    targeting: Targeting
    anchor_quantile: float
    scored_rows: int

    def part(self) -> Part:
        return self.guided(
            self.targets(self.targeting, self.anchor_quantile),
            extra_ratio=self.oversample_ratio,
            scored_rows=self.scored_rows,
        )
