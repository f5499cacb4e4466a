"""The vector interface: both models read word-embedding vectors, and the teacher's look-up is bypassed.

What enters a model is the row of the word-embedding table, never the output of the embedding block:
positions, segments, LayerNorm and dropout are applied inside the model as for token ids.
Source: SAGE, whose paper's constants are not public; docs/sage.md, "A round", says how the `shift` lift is done here.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worker.distill.batches import Batch, collate
from worker.distill.data import Split
from worker.distill.device import Compute
from worker.distill.errors import TeacherNotFinite, VectorInterfaceMismatch
from worker.distill.families import family_of, word_table
from worker.distill.order import in_batches, length_order

_TOLERANCE = 1e-5
_CHECK_ROWS = 16


def embed(batch: Batch, table: torch.Tensor) -> torch.Tensor:
    """(rows, length, width) a model's input vectors: those of the words in `table`, moved as `move` does."""
    return move(torch.nn.functional.embedding(batch.ids, table), batch)


def move(vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(rows, length, width) the word `vectors` of a batch, those of synthetic rows moved by their shift."""
    if batch.shifts is None:
        return vectors
    return vectors + shift_of_a_word(batch, batch.shifts)[:, None, :] * ~batch.is_special[:, :, None]


def shift_of_a_word(batch: Batch, shifts: torch.Tensor) -> torch.Tensor:
    """(rows, width) by how much each word vector of a row is moved.

    Special tokens stay where they are, so the shift is scaled by all tokens over moved tokens: the
    mean over the whole row then moves by exactly the shift.
    """
    scale = batch.mask.sum(1) / (~batch.is_special).sum(1).clamp(min=1)
    return shifts * scale[:, None]


def forward_vectors(model: torch.nn.Module, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
    """(rows, classes) logits of `model` on input `vectors` (rows, length, width) of the batch."""
    return model(inputs_embeds=vectors, attention_mask=batch.mask.long(), **_segments(model, batch)).logits


def forward_ids(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """(rows, classes) logits on token ids: the path that the exported student takes."""
    return model(input_ids=batch.ids, attention_mask=batch.mask.long(), **_segments(model, batch)).logits


def write_pooled_vectors(
    split: Split, table: torch.Tensor, compute: Compute, file: Path, batch_size: int = 512
) -> np.ndarray:
    """(rows, width) float32: the mean input vector over all tokens of each row, special ones included.

    They lie in `file` (.npy) and are mapped from there, so that memory holds of them what there is room for.
    """
    shape = (len(split), table.shape[1])
    pooled = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    with file.open("r+b") as opened:  # a full disk is an error here; met while writing to the map it would be a signal
        os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    for rows in in_batches(length_order(split.lengths), split.lengths, lambda _: batch_size):
        batch = collate(rows, split, compute.device)
        vectors = embed(batch, table) * batch.mask[:, :, None]
        pooled[rows] = (vectors.sum(1) / batch.mask.sum(1)[:, None]).cpu().numpy()
    pooled.flush()
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


@torch.inference_mode()
def check_vector_interface(model: torch.nn.Module, split: Split, compute: Compute) -> None:
    """Prove that ids and vectors give the same logits, on rows of unlike length (so padded) as they are.

    Raises VectorInterfaceMismatch: a model that fails would silently learn on other inputs than it serves; and
    TeacherNotFinite where the logits themselves are no numbers.
    """
    model.eval()
    table = word_table(model)
    order = np.argsort(split.lengths, kind="stable")
    config: Any = model.config
    if family_of(config).counts_positions_from_padding:
        # Such a row is read otherwise by ids whatever the input layer does: loading.doubt_padding tells of it.
        plain = order[~np.isin(order, split.rows_with(config.pad_token_id))]
        order = plain if len(plain) else order
    rows = order[np.unique(np.linspace(0, len(order) - 1, _CHECK_ROWS).astype(int))]
    batch = collate(rows, split, compute.device)
    by_ids = forward_ids(model, batch)
    if not torch.isfinite(by_ids).all():
        raise TeacherNotFinite(
            "the teacher answers ordinary rows with logits that are not finite numbers: its weights are broken or "
            "overflowed. Save it again in fp32 and check a prediction, or use another teacher."
        )
    difference = (by_ids - forward_vectors(model, batch, embed(batch, table))).abs().max().item()
    if not difference <= _TOLERANCE:
        raise VectorInterfaceMismatch(
            f"{type(model).__name__} gives logits on vectors that differ by {difference:.2e} from those on "
            f"token ids (at most {_TOLERANCE:.0e} is allowed): its input layer cannot be bypassed. "
            "Use another teacher."
        )


def _segments(model: torch.nn.Module, batch: Batch) -> dict[str, Any]:
    return {"token_type_ids": batch.segments} if family_of(model.config).has_segments else {}
