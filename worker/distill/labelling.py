"""The teacher looks at synthetic rows: logits for inputs that no text has."""

import numpy as np
import torch

from worker.distill.batches import SyntheticRows, collate
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
) -> SyntheticRows:
    """What `teacher` says to each row, lifted to tokens; those without finite logits are dropped."""
    logits = np.empty((len(drawn), classes), np.float32)
    features = np.empty((len(drawn), vectors.shape[1]), np.float32) if keeps_features else None
    unlabelled = drawn.labelled(logits)
    batches = evaluation_batches(split.lengths[drawn.anchors], device)
    for which, answer in ask(
        teacher,
        batches,
        lambda which: collate(len(split) + which, split, device, synthetic=unlabelled, vectors=vectors),
        keeps_features,
    ):
        logits[which] = answer.logits
        if features is not None:
            features[which] = answer.features
    keep = np.flatnonzero(np.isfinite(logits).all(1))
    return drawn.taken(keep).labelled(logits[keep], None if features is None else features[keep])
