"""SAGE's other control: the same rows of high loss, repeated instead of synthesised from."""

from dataclasses import dataclass

from worker.distill.methods.base import Part
from worker.distill.methods.guided import TargetedMethod


@dataclass(frozen=True)
class Oversample(TargetedMethod):
    oversample_ratio: float

    def part(self) -> Part:
        return self.guided(
            self.guide,
            extra_ratio=self.oversample_ratio,
            scored_rows=self.scored_rows,
        )
