"""Models look at synthetic rows: the teacher labels inputs that no text has, the student is scored on them."""

from collections.abc import Callable

import numpy as np
import torch

from worker.distill.batches import collate
from worker.distill.data import Split
from worker.distill.network import Network
from worker.distill.predict import SoFar, predict_batches
from worker.distill.rows import Predictions, SyntheticRows
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
    after_batch: Callable[[int], None],
    begun: Predictions | None = None,
    so_far: SoFar = lambda _: None,
) -> SyntheticRows:
    """What `teacher` says to each row, lifted to tokens; those without finite logits are dropped. Goes on from what has
    `begun`, as predict.predict does."""
    unlabelled = drawn.labelled(np.empty((len(drawn), classes), np.float32))
    said = predict_synthetic(
        teacher,
        unlabelled,
        split,
        vectors,
        device,
        keeps_features=keeps_features,
        after_batch=after_batch,
        begun=begun,
        so_far=so_far,
    )
    if np.isfinite(said.logits).all():
        return drawn.labelled(said.logits, said.features)
    keep = np.flatnonzero(np.isfinite(said.logits).all(1))
    return drawn.taken(keep).labelled(said.logits[keep], None if said.features is None else said.features[keep])


def predict_synthetic(
    network: Network,
    synthetic: SyntheticRows,
    split: Split,
    vectors: np.ndarray,
    device: torch.device,
    *,
    keeps_features: bool = False,
    after_batch: Callable[[int], None],
    begun: Predictions | None = None,
    so_far: SoFar = lambda _: None,
) -> Predictions:
    """What `network` says to each of the rows, in evaluation mode; `after_batch` hears how many rows each batch had,
    `begun` and `so_far` are those of predict.predict."""
    if not len(synthetic):
        return Predictions(synthetic.teacher_logits, vectors[:0] if keeps_features else None)
    return predict_batches(
        network,
        split.lengths[synthetic.anchors],
        lambda which: collate(len(split) + which, split, device, synthetic=synthetic, vectors=vectors),
        device,
        after_batch=after_batch,
        keeps_features=keeps_features,
        begun=begun,
        so_far=so_far,
    )
