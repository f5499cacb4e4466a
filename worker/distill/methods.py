"""Every method: what it teaches and on which rows. A new one is a file of its own and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.distill.config import MethodConfig
from worker.distill.errors import InvalidJob
from worker.distill.objectives import CrossEntropy, KnowledgeDistillation, Objective
from worker.distill.strategies.base import DataStrategy
from worker.distill.strategies.guided import Guided, Targeting
from worker.distill.strategies.real_rows import RealRows


@dataclass(frozen=True)
class Method:
    objective: Objective
    strategy: DataStrategy


@dataclass(frozen=True)
class KdParameters:
    temperature: float
    alpha: float


@dataclass(frozen=True)
class FineTuneParameters:
    pass


@dataclass(frozen=True)
class SageParameters:
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    synthetic_ratio: float
    neighbors: int
    anchor_quantile: float
    scored_rows: int
    early_stopping: bool


@dataclass(frozen=True)
class RandomAnchorsParameters:
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    synthetic_ratio: float
    neighbors: int


@dataclass(frozen=True)
class OversampleParameters:
    temperature: float
    alpha: float
    rounds: int
    warmup_epochs: float
    oversample_ratio: float
    neighbors: int
    anchor_quantile: float
    scored_rows: int


def _kd(config: MethodConfig) -> Method:
    parameters = config.read(KdParameters)
    return Method(KnowledgeDistillation(parameters.temperature, parameters.alpha), RealRows())


def _fine_tune(config: MethodConfig) -> Method:
    config.read(FineTuneParameters)
    return Method(CrossEntropy(), RealRows())


def _sage(config: MethodConfig) -> Method:
    parameters = config.read(SageParameters)
    return _guided(
        parameters,
        extra_ratio=parameters.synthetic_ratio,
        targeting=Targeting(parameters.anchor_quantile, parameters.scored_rows),
        synthesises=True,
        early_stopping=parameters.early_stopping,
    )


def _random_anchors(config: MethodConfig) -> Method:
    parameters = config.read(RandomAnchorsParameters)
    return _guided(parameters, extra_ratio=parameters.synthetic_ratio, targeting=None, synthesises=True)


def _oversample(config: MethodConfig) -> Method:
    parameters = config.read(OversampleParameters)
    return _guided(
        parameters,
        extra_ratio=parameters.oversample_ratio,
        targeting=Targeting(parameters.anchor_quantile, parameters.scored_rows),
        synthesises=False,
    )


def _guided(
    parameters: SageParameters | RandomAnchorsParameters | OversampleParameters,
    *,
    extra_ratio: float,
    targeting: Targeting | None,
    synthesises: bool,
    early_stopping: bool = False,
) -> Method:
    """SAGE and its controls: one objective, one schedule of rounds, other rows."""
    objective = KnowledgeDistillation(parameters.temperature, parameters.alpha)
    strategy = Guided(
        rounds=parameters.rounds,
        warmup_epochs=parameters.warmup_epochs,
        extra_ratio=extra_ratio,
        neighbors=parameters.neighbors,
        targeting=targeting,
        synthesises=synthesises,
        early_stopping=early_stopping,
        score=objective,
    )
    return Method(objective, strategy)


METHODS: dict[str, Callable[[MethodConfig], Method]] = {
    "sage": _sage,
    "kd": _kd,
    "fine_tune": _fine_tune,
    "random_anchors": _random_anchors,
    "oversample": _oversample,
}


def build_method(config: MethodConfig) -> Method:
    """A fresh objective and strategy; raises InvalidJob for a method or parameter that is not known."""
    if config.type not in METHODS:
        raise InvalidJob(f"method {config.type!r} is not known; known are {', '.join(METHODS)}.")
    return METHODS[config.type](config)
