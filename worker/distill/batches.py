"""From row numbers to padded tensors.

A row number below the split's length is a real row; from there on it names a synthetic row, which
stands on the tokens of its anchor (a real row): it adds one vector to them, or puts words of another row among them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from worker.distill.data import Split
from worker.distill.rows import Predictions, SyntheticRows
from worker.distill.transfer import place


@dataclass(frozen=True)
class BatchWords:
    """The distinct words of a batch, for training their vectors."""

    ids: torch.Tensor  # (distinct,) int64, ascending
    which: torch.Tensor  # (rows, length) int64 which of them stands there; at the padding it is the row's first one


@dataclass(frozen=True)
class Batch:
    """Padded on the right; tensors lie on the run's device."""

    ids: torch.Tensor  # (rows, length) int64
    mask: torch.Tensor  # (rows, length) bool
    segments: torch.Tensor  # (rows, length) int64
    is_special: torch.Tensor  # (rows, length) bool, padding included
    labels: torch.Tensor  # (rows,) int64; of a row without one some class, which nobody vouches for
    has_label: torch.Tensor  # (rows,) bool: real rows, but for the unlabelled ones
    is_real: torch.Tensor  # (rows,) bool
    teacher_logits: torch.Tensor | None  # (rows, classes)
    teacher_features: torch.Tensor | None  # (rows, width)
    shifts: torch.Tensor | None  # (rows, width); None where every row is real
    places: torch.Tensor  # (tokens,) int64: where the tokens are in the flattened (rows, length) arrays, ascending
    words: BatchWords | None  # where they were asked for


def collate(
    rows: np.ndarray,
    split: Split,
    device: torch.device,
    *,
    teacher: Predictions | None = None,
    synthetic: SyntheticRows | None = None,
    vectors: np.ndarray | None = None,
    lists_words: bool = False,
) -> Batch:
    """Gather `rows` into one padded batch; what the `teacher` says is of the real rows, and so are the pooled `vectors`
    (split rows, width), which shifted ones are made of. All whose size depends on the data is found here, so that
    nothing has to be asked of a GPU, which would be waited for."""
    is_real = rows < len(split)
    text_rows = rows
    shifts = None
    of_real = np.where(is_real, rows, 0)
    logits = None if teacher is None else teacher.logits[of_real]
    features = None if teacher is None or teacher.features is None else teacher.features[of_real]
    drawn = rows[~is_real] - len(split)
    if synthetic is not None and len(drawn):
        text_rows = rows.copy()
        text_rows[~is_real] = synthetic.anchors[drawn]
        if synthetic.splices is None:
            assert vectors is not None, "shifted rows come with the vectors that they are means of"
            shifts = np.zeros((len(rows), vectors.shape[1]), np.float32)
            shifts[~is_real] = synthetic.shifts(drawn, vectors)
        if logits is not None:
            logits[~is_real] = synthetic.teacher_logits[drawn]
        if features is not None:
            assert synthetic.teacher_features is not None, "real rows and synthetic ones are labelled alike"
            features[~is_real] = synthetic.teacher_features[drawn]
    lengths = split.lengths[text_rows]
    positions = np.arange(lengths.max())
    mask = positions < lengths[:, None]
    tokens = np.where(mask, split.offsets[text_rows][:, None] + positions, 0)
    ids = np.where(mask, split.ids[tokens], 0)
    is_special = split.is_special[tokens] | ~mask
    if synthetic is not None and synthetic.splices is not None and len(drawn):
        ids[~is_real] = _spliced(ids[~is_real], is_special[~is_real], synthetic.splices[drawn], split)
    arrays = {
        "ids": ids.astype(np.int64),
        "mask": mask,
        "segments": np.where(mask, split.segments[tokens], 0).astype(np.int64),
        "is_special": is_special,
        "labels": np.maximum(split.labels[text_rows], 0),
        "has_label": is_real & split.has_label[text_rows],
        "is_real": is_real,
        "places": np.flatnonzero(mask),
        "teacher_logits": logits,
        "teacher_features": features,
        "shifts": shifts,
    }
    if lists_words:
        distinct, which = np.unique(np.where(mask, ids, ids[:, :1]), return_inverse=True)
        arrays |= {"distinct": distinct.astype(np.int64), "which": which.reshape(mask.shape)}
    placed = place({name: array for name, array in arrays.items() if array is not None}, device)
    return Batch(
        ids=placed["ids"],
        mask=placed["mask"],
        segments=placed["segments"],
        is_special=placed["is_special"],
        labels=placed["labels"],
        has_label=placed["has_label"],
        is_real=placed["is_real"],
        teacher_logits=placed.get("teacher_logits"),
        teacher_features=placed.get("teacher_features"),
        shifts=placed.get("shifts"),
        places=placed["places"],
        words=BatchWords(placed["distinct"], placed["which"]) if lists_words else None,
    )


def _spliced(ids: np.ndarray, is_special: np.ndarray, splices: np.ndarray, split: Split) -> np.ndarray:
    """(rows, length) `ids` of the anchors, padding special, with the lenders' words in their places."""
    lenders, firsts, places, counts = (column[:, None] for column in splices.T)
    positions = np.arange(split.lengths[lenders].max())
    inside = positions < split.lengths[lenders]
    tokens = np.where(inside, split.offsets[lenders] + positions, 0)
    # Each lender's ordinary tokens before its others, in their order: word k is the k-th of them.
    words = np.argsort(~inside | split.is_special[tokens], axis=1, kind="stable")
    number = np.cumsum(~is_special, axis=1) - 1 - places
    is_lent = ~is_special & (number >= 0) & (number < counts)
    word = np.take_along_axis(words, np.where(is_lent, firsts + number, 0), axis=1)
    return np.where(is_lent, split.ids[np.take_along_axis(tokens, word, axis=1)], ids)
