"""Every method by its name, and how a training is put together of those that a job names.

A new method is a file of its own and a line here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from worker.distill.config import MethodConfig
from worker.distill.data import Split
from worker.distill.errors import InvalidJob
from worker.distill.methods.base import Method, Part, Subset
from worker.distill.methods.bd_kd import BdKd
from worker.distill.methods.fine_tune import FineTune
from worker.distill.methods.kd import Kd
from worker.distill.methods.lelp import Lelp
from worker.distill.methods.llkd import Llkd
from worker.distill.methods.nd import Nd
from worker.distill.methods.opdf import Opdf
from worker.distill.methods.oversample import Oversample
from worker.distill.methods.pld import Pld
from worker.distill.methods.pruned import Pruned
from worker.distill.methods.rad import Rad
from worker.distill.methods.random_anchors import RandomAnchors
from worker.distill.methods.sage import Sage
from worker.distill.methods.sinkd import Sinkd
from worker.distill.methods.taid import Taid
from worker.distill.objectives import Combined, Objective
from worker.distill.parameterisation import Parameterisation
from worker.distill.strategies.base import DataStrategy
from worker.distill.strategies.guided import Guided
from worker.distill.strategies.real_rows import RealRows

Slot = TypeVar("Slot")

METHODS: dict[str, type[Method]] = {
    "sage": Sage,
    "kd": Kd,
    "fine_tune": FineTune,
    "random_anchors": RandomAnchors,
    "oversample": Oversample,
    "taid": Taid,
    "opdf": Opdf,
    "lelp": Lelp,
    "sinkd": Sinkd,
    "pld": Pld,
    "bd_kd": BdKd,
    "nd": Nd,
    "llkd": Llkd,
    "pruned": Pruned,
    "rad": Rad,
}


@dataclass(frozen=True)
class Recipe:
    """How one student is trained."""

    objective: Objective
    strategy: DataStrategy
    subset: Subset | None
    parameterisation: Callable[[], Parameterisation] | None

    def learns_from(self, split: Split) -> Split:
        """The rows of which an epoch is one of all: the labelled ones alone where no teacher says what the others
        are."""
        return split if self.objective.needs_teacher else split.labelled


def build_recipe(configs: Sequence[MethodConfig]) -> Recipe:
    """A fresh training by these methods together; raises InvalidJob where one is not known or two cannot meet."""
    parts = {config.type: _part(config) for config in configs}

    def only(slot: Callable[[Part], Slot | None], plural: str) -> Slot | None:
        return _only({name: slot(part) for name, part in parts.items()}, plural)

    # A method that leaves rows out knows better than others how much the teacher is to count.
    objective = (
        only(lambda part: part.objective, "objectives")
        or only(lambda part: part.default_objective if part.subset else None, "objectives")
        or only(lambda part: part.default_objective, "objectives")
    )
    if objective is None:
        raise InvalidJob(f"{' and '.join(parts)} need an objective beside them: add kd, or another that has one.")
    auxiliaries = [part.auxiliary for part in parts.values() if part.auxiliary is not None]
    strategy = only(lambda part: part.strategy, "choices of rows") or RealRows()
    guide = only(lambda part: part.guide, "guides")
    if guide is not None:
        if not isinstance(strategy, Guided):
            raise InvalidJob(f"{' and '.join(parts)} have no rounds that could be led: add sage or oversample.")
        strategy.guide = guide
    gate = only(lambda part: part.gate, "gates")
    return Recipe(
        objective=Combined(objective, auxiliaries, gate) if auxiliaries or gate else objective,
        strategy=strategy,
        subset=only(lambda part: part.subset, "subsets"),
        parameterisation=only(lambda part: part.parameterisation, "parameterisations"),
    )


def revisions(names: Iterable[str]) -> dict[str, int]:
    """Of those of the methods that are no longer what they began as: a run under way by an earlier one does not end
    as it would have."""
    return {name: METHODS[name].revision for name in names if METHODS[name].revision != 1}


def _part(config: MethodConfig) -> Part:
    if config.type not in METHODS:
        raise InvalidJob(f"method {config.type!r} is not known; known are {', '.join(METHODS)}.")
    return config.read(METHODS[config.type]).part()


def _only(brought: Mapping[str, Slot | None], plural: str) -> Slot | None:
    """What one of the methods brings, or None; `brought` is by the method's name."""
    found = {name: value for name, value in brought.items() if value is not None}
    if len(found) > 1:
        raise InvalidJob(f"{' and '.join(found)} are {len(found)} {plural}; a training has one. Name one of them.")
    return next(iter(found.values()), None)
