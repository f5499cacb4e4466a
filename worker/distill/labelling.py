"""The teacher looks at synthetic points: logits for vectors that no text has."""

import numpy as np
import torch

from worker.distill.batches import SyntheticRows, collate
from worker.distill.data import Split
from worker.distill.evaluate import evaluation_batch_rows
from worker.distill.networks import Network
from worker.distill.synthesis import Points


def label_points(points: Points, teacher: Network, split: Split, device: torch.device, classes: int) -> SyntheticRows:
    """Logits of `teacher` for each point, lifted to its anchor's tokens; points without finite logits are dropped."""
    count = len(points.anchors)
    unlabelled = SyntheticRows(points.anchors, points.shifts, np.zeros((count, classes), np.float32))
    logits = np.empty((count, classes), np.float32)
    order = np.argsort(-split.lengths[points.anchors], kind="stable")
    batch_rows = evaluation_batch_rows(device)
    for start in range(0, count, batch_rows):
        rows = order[start : start + batch_rows]
        batch = collate(len(split) + rows, split, device, synthetic=unlabelled)
        logits[rows] = teacher.logits(batch).cpu().numpy()
    keep = np.isfinite(logits).all(1)
    return SyntheticRows(points.anchors[keep], points.shifts[keep], logits[keep])
