"""Rounds after a warm-up, each led by where the student's loss is high: SAGE and its two controls.

All three present the same number of rows. They differ in what joins the real stream in a round:
rows synthesised where the loss is high (SAGE), rows synthesised anywhere (random anchors), or the rows of high
loss themselves once more (oversampling). A gain is SAGE's only against both.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from worker.distill import seed as seeds
from worker.distill.objectives import Objective
from worker.distill.rows import SyntheticRows
from worker.distill.selection import Region, highest
from worker.distill.splicing import Splices, splice
from worker.distill.strategies.base import Questions, RoundPlan, StrategyContext, budget_rows, split_evenly
from worker.distill.strategies.guides import Guide
from worker.distill.strategies.real_rows import RealRows
from worker.distill.synthesis import Points

Lift = Literal["splice", "shift"]

# So many candidates are there at a time, whatever the size of the round. A checkpoint tells how many parts are over:
# with another number here, the release that reads it would take other rows for those.
_CANDIDATES_AT_ONCE = 65_536
# From round to round the loss in the region has to shrink by this share, or the round was idle.
_SHRINK_AT_LEAST = 0.01
_IDLE_ROUNDS_AT_MOST = 1
_ROUNDS_WITHOUT_GAIN_AT_MOST = 1


@dataclass
class Guided:
    rounds: int
    warmup_epochs: float
    extra_ratio: float  # added rows per real row of a round; at 0 this is RealRows, bit for bit
    neighbors: int
    guide: Guide  # from which rows a round draws
    scored_rows: int  # how many rows' losses it looks at; they stand for those around them
    lift: Lift | None  # how new rows are made between two neighbours; None: the rows of the region themselves
    candidates: float  # how many are made for each one that is kept: those of highest loss
    distance: Objective  # by which loss: how far the student is from the teacher, which is all that is known of them
    early_stopping: bool
    masses: list[float] = field(default_factory=list)
    real_rows: RealRows = field(default_factory=RealRows)

    @property
    def needs_projection(self) -> bool:
        return self.extra_ratio > 0 and (self.lift is not None or self.guide.needs_map)

    @property
    def needs_vectors(self) -> bool:
        return self.extra_ratio > 0 and self.lift == "shift"

    def round_sizes(self, epochs: float, rows: int) -> list[int]:
        if self.extra_ratio == 0:
            return self.real_rows.round_sizes(epochs, rows)
        total = budget_rows(epochs, rows)
        warm_up = min(total, round(self.warmup_epochs * rows))
        return [size for size in [warm_up] if size] + split_evenly(total - warm_up, self.rounds)

    def questions(self, epochs: float, rows: int, learnt: int) -> list[Questions]:
        return [
            Questions(teacher=0, student=0) if self._is_plain(number, rows) else self._questions(size, learnt)
            for number, size in enumerate(self.round_sizes(epochs, rows))
        ]

    def plan_round(
        self, number: int, size: int, rounds_without_gain: int, context: StrategyContext
    ) -> RoundPlan | None:
        if self._is_plain(number, len(context.split)):
            return self.real_rows.plan_round(number, size, rounds_without_gain, context)
        if self.early_stopping and rounds_without_gain > _ROUNDS_WITHOUT_GAIN_AT_MOST:
            return None
        region, mass = self.guide.region(self._scored(number, context), self.neighbors, context)
        if mass is not None:
            self.masses.append(mass)
        if self.early_stopping and self._is_idle():
            return None
        generator = seeds.generator(context.seed, context.arm, "synthesis", number)
        wanted = self._wanted(size)
        synthetic, facts = None, {"region_rows": float(len(region.rows))}
        if mass is not None:
            facts["high_loss_mass"] = mass
        if self.lift is None:
            extra = region.draw(wanted, generator)
        else:
            synthetic, told = self._make(region, wanted, generator, context)
            facts |= told
            extra = len(context.split) + np.arange(len(synthetic))
        facts["extra_rows"] = float(len(extra))
        # Where the quality filter refused points, real rows fill the round: the budget stays what it is.
        rows = np.concatenate([self.real_rows.take(size - len(extra), context), extra])
        return RoundPlan(rows, synthetic, facts)

    def state_dict(self) -> dict[str, Any]:
        return {"masses": list(self.masses), "real_rows": self.real_rows.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.masses = list(state["masses"])
        self.real_rows.load_state_dict(state["real_rows"])

    def _is_plain(self, number: int, rows: int) -> bool:
        """Whether the round is of real rows alone: each where nothing is added, or the warm-up."""
        return self.extra_ratio == 0 or (number == 0 and round(self.warmup_epochs * rows) > 0)

    def _questions(self, size: int, learnt: int) -> Questions:
        scored, wanted = min(self.scored_rows, learnt), self._wanted(size)
        if self.lift is None or wanted == 0:
            return Questions(teacher=0, student=scored)
        made = sum(round(part * self.candidates) for part in self._parts(wanted))
        return Questions(teacher=made, student=scored if self.candidates == 1 else scored + made)

    def _wanted(self, size: int) -> int:
        """How many of the round's rows are added ones."""
        return round(size * self.extra_ratio / (1 + self.extra_ratio))

    def _parts(self, count: int) -> list[int]:
        """`count` new rows, in as many parts as their candidates are made in."""
        return split_evenly(count, math.ceil(count * self.candidates / _CANDIDATES_AT_ONCE))

    def _make(
        self, region: Region, count: int, generator: np.random.Generator, context: StrategyContext
    ) -> tuple[SyntheticRows, dict[str, float]]:
        """`count` new rows, or fewer where some were refused, and what is to be told of them."""
        if self.candidates == 1 or count == 0:
            return context.label(self._draw(region, count, generator, context)), {}
        for number, size in enumerate(self._parts(count)):
            drawn = self._draw(region, round(size * self.candidates), generator, context)
            if number < context.choice.parts:  # those that are over were drawn for the generator's sake
                continue
            made = context.label(drawn)
            losses = context.score_synthetic(self.distance, made)
            best = highest(losses, size)
            context.choice.end_part(made.taken(best), losses, losses[best])
        chosen = context.choice.chosen()
        if not len(chosen.kept):
            return chosen.kept, {}
        return chosen.kept, {
            "candidate_loss": float(chosen.losses.mean()),
            "kept_loss": float(chosen.kept_losses.mean()),
        }

    def _draw(
        self, region: Region, count: int, generator: np.random.Generator, context: StrategyContext
    ) -> Points | Splices:
        synthesizer = context.synthesizer(self.neighbors)
        if self.lift == "shift":
            return synthesizer.draw(region, count, generator)
        starts, ends = synthesizer.draw_pairs(region, count, generator)
        return splice(starts, ends, context.split, generator)

    def _scored(self, number: int, context: StrategyContext) -> np.ndarray:
        generator = seeds.generator(context.seed, context.arm, "scored", number)
        return np.sort(context.rows[generator.permutation(len(context.rows))[: self.scored_rows]])

    def _is_idle(self) -> bool:
        recent = self.masses[-(_IDLE_ROUNDS_AT_MOST + 2) :]
        shrinks = [1 - after / max(before, 1e-12) for before, after in itertools.pairwise(recent)]
        return len(shrinks) > _IDLE_ROUNDS_AT_MOST and max(shrinks) < _SHRINK_AT_LEAST
