"""Models look at synthetic rows: the teacher labels inputs that no text has, the student is scored on them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from worker.distill.batches import Predictions, SyntheticRows, collate
from worker.distill.data import Split
from worker.distill.evaluate import ask, evaluation_batches
from worker.distill.network import Network
from worker.distill.splicing import Splices
from worker.distill.synthesis import Points


def label_rows(
    drawn: Points | Splices,
    teacher: Network,
    split: Split,
    vectors: np.ndarray,
    device: torch.device,
    classes: int,
    *,
    keeps_features: bool,
    after_batch: Callable[[], None],
) -> SyntheticRows:
    """What `teacher` says to each row, lifted to tokens; those without finite logits are dropped."""
    logits = np.empty((len(drawn), classes), np.float32)
    features = np.empty((len(drawn), vectors.shape[1]), np.float32) if keeps_features else None
    for which, answer in _ask(teacher, drawn.labelled(logits), split, vectors, device, keeps_features):
        logits[which] = answer.logits
        if features is not None:
            features[which] = answer.features
        after_batch()
    keep = np.flatnonzero(np.isfinite(logits).all(1))
    return drawn.taken(keep).labelled(logits[keep], None if features is None else features[keep])


def predict_synthetic(
    network: Network,
    synthetic: SyntheticRows,
    split: Split,
    vectors: np.ndarray,
    device: torch.device,
    *,
    after_batch: Callable[[], None],
) -> np.ndarray:
    """(rows, classes) float32 logits of `network` to each of the rows."""
    logits = np.empty_like(synthetic.teacher_logits)
    for which, answer in _ask(network, synthetic, split, vectors, device):
        logits[which] = answer.logits
        after_batch()
    return logits


def _ask(
    network: Network,
    synthetic: SyntheticRows,
    split: Split,
    vectors: np.ndarray,
    device: torch.device,
    keeps_features: bool = False,
) -> Iterator[tuple[np.ndarray, Predictions]]:
    """Positions of rows and what `network` says to them, a batch at a time."""
    return ask(
        network,
        evaluation_batches(split.lengths[synthetic.anchors], device),
        lambda which: collate(len(split) + which, split, device, synthetic=synthetic, vectors=vectors),
        keeps_features,
    )
