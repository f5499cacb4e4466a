"""What a model is worth on real text, read by the vectors of its tokens: those that the shipped student looks up."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from worker.distill.batches import Batch, Predictions, collate
from worker.distill.data import Split
from worker.distill.network import Network, Outputs

# A processor works fastest on batches whose activations stay in its cache; a GPU wants as much at once as its memory
# holds by a wide margin, here counted with the padding.
_PROCESSOR_BATCH_ROWS = 32
_GPU_BATCH_TOKENS = 32_768

_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Quality:
    """Accuracy and macro-averaged F1 over all classes of the split, mean cross-entropy in nats, and the expected
    calibration error: by how much confidence and accuracy differ."""

    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def predict_logits(
    network: Network,
    split: Split,
    device: torch.device,
    *,
    rows: np.ndarray | None = None,
    after_batch: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """(rows, classes) float32 in evaluation mode, of all rows of the split where none are named; `after_batch` hears
    how many rows each batch had."""
    return predict(network, split, device, rows=rows, after_batch=after_batch).logits


def predict(
    network: Network,
    split: Split,
    device: torch.device,
    *,
    rows: np.ndarray | None = None,
    after_batch: Callable[[int], None] = lambda _: None,
    keeps_features: bool = False,
) -> Predictions:
    """As `predict_logits`, and the features where they are kept."""
    rows = np.arange(len(split)) if rows is None else rows
    logits: np.ndarray | None = None
    features: np.ndarray | None = None
    batches = evaluation_batches(split.lengths[rows], device)
    for which, outputs in ask(network, batches, lambda which: collate(rows[which], split, device)):
        if logits is None:
            logits = np.empty((len(rows), outputs.logits.shape[1]), np.float32)
            if keeps_features:
                features = np.empty((len(rows), outputs.features.shape[1]), np.float32)
        logits[which] = outputs.logits.cpu().numpy()
        if features is not None:
            features[which] = outputs.features.cpu().numpy()
        after_batch(len(which))
    assert logits is not None, "a split has at least one row: the dataset's preparation saw to it"
    return Predictions(logits, features)


def evaluation_batches(lengths: np.ndarray, device: torch.device) -> Iterator[np.ndarray]:
    """Positions of `lengths` (rows,) for passes without a gradient, in batches that suit `device`; longest first, so
    that the first batch shows the peak memory."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = _PROCESSOR_BATCH_ROWS
        if device.type == "cuda":
            rows = max(1, _GPU_BATCH_TOKENS // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def ask(
    network: Network, batches: Iterable[np.ndarray], make: Callable[[np.ndarray], Batch]
) -> Iterator[tuple[np.ndarray, Outputs]]:
    """Each of `batches` with what `network` says to what `make` makes of it; a GPU has the next one to work on when the
    answer to one is read."""
    waiting: tuple[np.ndarray, Outputs] | None = None
    for which in batches:
        outputs = network.outputs(make(which))
        if waiting is not None:
            yield waiting
        waiting = which, outputs
    if waiting is not None:
        yield waiting


def measure_quality(logits: np.ndarray, labels: np.ndarray) -> Quality:
    predicted = logits.argmax(1)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return Quality(
        accuracy=float((predicted == labels).mean()),
        macro_f1=_macro_f1(predicted, labels),
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        calibration_error=_calibration_error(np.exp(log_probabilities.max(1)), predicted == labels),
    )


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Share of rows on which both models choose the same class."""
    return float((logits.argmax(1) == teacher_logits.argmax(1)).mean())


@torch.inference_mode()
def measure_latency(
    model: torch.nn.Module, tokenizer: Any, examples: list[tuple[str, ...]], max_length: int
) -> dict[str, float]:
    """p50 and p95 in milliseconds of one example at a time, tokenisation included, on the model's device.

    An example is a text or a pair of texts. Ten warm up and are not counted.
    """
    device = next(model.parameters()).device
    model.eval()
    durations_ms = []
    for position in range(len(examples) + 10):
        start = time.perf_counter()
        example = examples[position % len(examples)]
        encoded = tokenizer(*example, truncation=True, max_length=max_length, return_tensors="pt").to(device)
        model(**encoded).logits.cpu()
        durations_ms.append((time.perf_counter() - start) * 1_000)
    counted = sorted(durations_ms[10:])
    if len(counted) == 1:
        counted *= 2
    return {
        "p50": round(statistics.median(counted), 3),
        "p95": round(statistics.quantiles(counted, n=20)[-1], 3),
    }


def _macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    scores = []
    for label in np.union1d(predicted, labels):
        hits = ((predicted == label) & (labels == label)).sum()
        scores.append(2 * hits / ((predicted == label).sum() + (labels == label).sum()))
    return float(np.mean(scores))


def _calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Guo et al., "On calibration of modern neural networks" (2017), equation 5: over bins of equal width, the mean
    distance of accuracy and confidence, weighted by rows."""
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, is_right - confidence, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
