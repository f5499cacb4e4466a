"""The teacher looks at synthetic points: logits for vectors that no text has."""

import numpy as np
import torch

from worker.distill.batches import SyntheticRows, collate
from worker.distill.data import Split
from worker.distill.evaluate import ask, evaluation_batches
from worker.distill.network import Network
from worker.distill.synthesis import Points


def label_points(
    points: Points,
    teacher: Network,
    split: Split,
    vectors: np.ndarray,
    device: torch.device,
    classes: int,
    *,
    keeps_features: bool,
) -> SyntheticRows:
    """What `teacher` says to each point, lifted to its anchor's tokens; points without finite logits are dropped."""
    logits = np.empty((len(points), classes), np.float32)
    features = np.empty((len(points), vectors.shape[1]), np.float32) if keeps_features else None
    unlabelled = SyntheticRows(points.anchors, points.sources, points.weights, logits)
    batches = evaluation_batches(split.lengths[points.anchors], device)
    for which, answer in ask(
        teacher,
        batches,
        lambda which: collate(len(split) + which, split, device, synthetic=unlabelled, vectors=vectors),
        keeps_features,
    ):
        logits[which] = answer.logits
        if features is not None:
            features[which] = answer.features
    keep = np.isfinite(logits).all(1)
    return SyntheticRows(
        points.anchors[keep],
        points.sources[keep],
        points.weights[keep],
        logits[keep],
        None if features is None else features[keep],
    )
