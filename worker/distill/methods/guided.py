"""What SAGE and its controls have in common: rounds on a budget, and plain distillation by parameters of their own."""

from dataclasses import dataclass
from typing import Literal

from worker.distill.methods.base import Method, Part
from worker.distill.objectives import KnowledgeDistillation
from worker.distill.strategies.guided import Guided, Lift
from worker.distill.strategies.guides import Guide, HighLoss, RowLoss


@dataclass(frozen=True)
class GuidedMethod(Method):
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    neighbors: int

    @property
    def plain(self) -> KnowledgeDistillation:
        """What regions are scored by, and rows trained by where no other method says by what."""
        return KnowledgeDistillation(self.temperature, self.alpha)

    @property
    def distance(self) -> KnowledgeDistillation:
        """How far the student is from the teacher, whatever the label."""
        return KnowledgeDistillation(self.temperature, alpha=1.0)

    def guided(
        self,
        guide: Guide,
        *,
        extra_ratio: float,
        scored_rows: int = 0,
        lift: Lift | None = None,
        candidates: float = 1.0,
        early_stopping: bool = False,
    ) -> Part:
        strategy = Guided(
            rounds=self.rounds,
            warmup_epochs=self.warmup_epochs,
            extra_ratio=extra_ratio,
            neighbors=self.neighbors,
            guide=guide,
            scored_rows=scored_rows,
            lift=lift,
            candidates=candidates,
            distance=self.distance,
            early_stopping=early_stopping,
        )
        return Part(default_objective=self.plain, strategy=strategy)


@dataclass(frozen=True)
class TargetedMethod(GuidedMethod):
    """One that goes where the loss is high."""

    targeting: Literal["rows", "region"]
    anchor_quantile: float
    scored_rows: int

    @property
    def guide(self) -> Guide:
        if self.targeting == "rows":
            return RowLoss(score=self.distance)
        return HighLoss(self.anchor_quantile, score=self.plain, score_unlabelled=self.distance)
