"""Real rows only, an epoch a round: plain distillation and fine-tuning."""

from typing import Any

import numpy as np

from worker.distill.order import stream_of_rows
from worker.distill.strategies.base import Questions, RoundPlan, StrategyContext, budget_rows


class RealRows:
    needs_projection = False
    needs_vectors = False

    def __init__(self) -> None:
        self.position = 0  # in the endless stream of real rows

    def round_sizes(self, epochs: float, rows: int) -> list[int]:
        total = budget_rows(epochs, rows)
        return [min(rows, total - start) for start in range(0, total, rows)]

    def questions(self, epochs: float, rows: int, learnt: int) -> list[Questions]:  # noqa: ARG002 - the protocol's
        return [Questions(teacher=0, student=0) for _ in self.round_sizes(epochs, rows)]

    def plan_round(
        self,
        number: int,  # noqa: ARG002 - the protocol's
        size: int,
        rounds_without_gain: int,  # noqa: ARG002
        context: StrategyContext,
    ) -> RoundPlan:
        return RoundPlan(self.take(size, context), None, {})

    def take(self, count: int, context: StrategyContext) -> np.ndarray:
        """(count,) the next real rows; every row comes once before any comes again."""
        places = stream_of_rows(context.seed, context.arm, len(context.rows), self.position, count)
        self.position += count
        return context.rows[places]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
