"""The teacher looks at synthetic points: logits for vectors that no text has."""

import numpy as np
import torch

from worker.distill.batches import SyntheticRows, collate
from worker.distill.data import Split
from worker.distill.device import Compute
from worker.distill.evaluate import EVALUATION_BATCH_ROWS
from worker.distill.families import word_table
from worker.distill.synthesis import Points
from worker.distill.vectors import forward_vectors


@torch.inference_mode()
def label_points(
    points: Points, teacher: torch.nn.Module, split: Split, compute: Compute, classes: int
) -> SyntheticRows:
    """Logits of `teacher` for each point, lifted to its anchor's tokens; points without finite logits are dropped."""
    teacher.eval()
    table = word_table(teacher)
    count = len(points.anchors)
    unlabelled = SyntheticRows(points.anchors, points.shifts, np.zeros((count, classes), np.float32))
    logits = np.empty((count, classes), np.float32)
    order = np.argsort(-split.lengths[points.anchors], kind="stable")
    for start in range(0, count, EVALUATION_BATCH_ROWS):
        rows = order[start : start + EVALUATION_BATCH_ROWS]
        batch = collate(len(split) + rows, split, compute.device, synthetic=unlabelled)
        with compute.autocast():
            logits[rows] = forward_vectors(teacher, batch, table).float().cpu().numpy()
    keep = np.isfinite(logits).all(1)
    return SyntheticRows(points.anchors[keep], points.shifts[keep], logits[keep])
