"""What a model is worth on real text, read by the vectors of its tokens: those that the shipped student looks up."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from worker.distill.rows import parts_by_logits

_CALIBRATION_BINS = 15
_NORMAL_95 = 1.96
# Examples before each turn of a model that are not counted.
_WARM_UP = 5
_TURNS = 2


@dataclass(frozen=True)
class Quality:
    """Accuracy, F1 as its mean over the classes that the labels have (so that models side by side are measured over the
    same ones), mean cross-entropy in nats, and the expected calibration error: by how much confidence and accuracy
    differ."""

    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_quality(logits: np.ndarray, labels: np.ndarray) -> Quality:
    """By `logits` (rows, classes), all of them finite, and `labels` (rows,)."""
    predicted = logits.argmax(1)
    of_label, of_choice = _log_probabilities(logits, labels)
    return Quality(
        accuracy=float((predicted == labels).mean()),
        macro_f1=_macro_f1(predicted, labels),
        loss=float(-of_label.mean()),
        calibration_error=_calibration_error(np.exp(of_choice), predicted == labels),
    )


@dataclass(frozen=True)
class Lead:
    """By how much one model's accuracy is above another's on the same rows, with the 95 % interval of what it is over
    all rows of their kind. Another seed would move it as well: of that one training says nothing."""

    accuracy: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_lead(is_right: np.ndarray, other_is_right: np.ndarray) -> Lead:
    """By which of the same rows, (rows,) bool, each of the two gets right.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions" (2005): Wald's for paired
    rows, with half a row added to each cell of the table, so that two models that answer alike have an interval too.
    """
    rows = len(is_right) + 2
    won = np.count_nonzero(is_right & ~other_is_right) + 0.5
    lost = np.count_nonzero(other_is_right & ~is_right) + 0.5
    middle = (won - lost) / rows
    half = _NORMAL_95 * np.sqrt(won + lost - (won - lost) ** 2 / rows) / rows
    return Lead(
        accuracy=float(is_right.mean() - other_is_right.mean()),
        low=float(max(middle - half, -1.0)),
        high=float(min(middle + half, 1.0)),
    )


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Share of rows on which both models choose the same class."""
    return float((logits.argmax(1) == teacher_logits.argmax(1)).mean())


@torch.inference_mode()
def measure_latencies(
    models: Sequence[torch.nn.Module],
    tokenizer: Any,
    examples: list[tuple[str, ...]],
    max_length: int,
    check_stop: Callable[[], None],
) -> list[dict[str, float]]:
    """Of each model, p50 and p95 in milliseconds of one example at a time, tokenisation included, on its device.

    An example is a text or a pair of texts. The models take turns, and the least of what a model's turns say counts:
    what else the machine does for a while slows a turn of one of them, and seldom all its turns.
    """
    turns: list[list[dict[str, float]]] = [[] for _ in models]
    for _ in range(_TURNS):
        for model, of_model in zip(models, turns, strict=True):
            check_stop()
            of_model.append(_quantiles(_durations_ms(model, tokenizer, examples, max_length)))
    return [{name: min(turn[name] for turn in of_model) for name in ("p50", "p95")} for of_model in turns]


def _durations_ms(
    model: torch.nn.Module, tokenizer: Any, examples: list[tuple[str, ...]], max_length: int
) -> list[float]:
    """Of each example, after some that warm up."""
    device = next(model.parameters()).device
    model.eval()
    durations_ms = []
    for position in range(-_WARM_UP, len(examples)):
        start = time.perf_counter()
        example = examples[position % len(examples)]
        encoded = tokenizer(*example, truncation=True, max_length=max_length, return_tensors="pt").to(device)
        model(**encoded).logits.cpu()
        durations_ms.append((time.perf_counter() - start) * 1_000)
    return durations_ms[_WARM_UP:]


def _quantiles(durations_ms: list[float]) -> dict[str, float]:
    if len(durations_ms) == 1:  # of one there are no quantiles
        durations_ms = durations_ms * 2
    return {
        "p50": round(statistics.median(durations_ms), 3),
        "p95": round(statistics.quantiles(durations_ms, n=20, method="inclusive")[-1], 3),
    }


def _log_probabilities(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) of each row's label and of its likeliest class, in float64."""
    of_label, of_choice = np.empty(len(labels)), np.empty(len(labels))
    for part in parts_by_logits(*logits.shape):
        shifted = logits[part].astype(np.float64) - logits[part].max(1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        of_label[part] = log_probabilities[np.arange(len(shifted)), labels[part]]
        of_choice[part] = log_probabilities.max(1)
    return of_label, of_choice


def _macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    scores = []
    for label in np.unique(labels):
        hits = ((predicted == label) & (labels == label)).sum()
        scores.append(2 * hits / ((predicted == label).sum() + (labels == label).sum()))
    return float(np.mean(scores))


def _calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Guo et al., "On calibration of modern neural networks" (2017), equation 5: over bins of equal width, the mean
    distance of accuracy and confidence, weighted by rows."""
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, is_right - confidence, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
