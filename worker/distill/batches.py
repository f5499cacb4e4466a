"""From row numbers to padded tensors, and in which order.

A row number below the split's length is a real row; from there on it names a synthetic row, which
stands on the tokens of its anchor (a real row): it adds one vector to them, or puts words of another row among them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from worker.distill import seed as seeds
from worker.distill.data import Split
from worker.distill.transfer import place

# Rows are sorted by length inside a window of so many batches: wide enough that padding all but
# vanishes, narrow enough that a batch is still a random draw.
_SORT_WINDOW_BATCHES = 32


@dataclass(frozen=True)
class Predictions:
    """What a model says to the rows of a split."""

    logits: np.ndarray  # (rows, classes) float32
    features: np.ndarray | None  # (rows, width) float32: what its last linear layer reads, where somebody needs them
    classifier: np.ndarray | None = None  # (classes, width) float32 that layer's weights, beside the features

    def of(self, rows: np.ndarray) -> "Predictions":
        """What it says to these `rows`, ascending and each once."""
        if len(rows) == len(self.logits):
            return self
        features = None if self.features is None else self.features[rows]
        return Predictions(self.logits[rows], features, self.classifier)


@dataclass(frozen=True)
class SyntheticRows:
    """Rows that no training row is: an anchor's tokens, changed, all rows of a round in the same way.

    Shifted: its token vectors are moved so that their mean is a point, the weighted mean of the pooled vectors of real
    rows. Spliced: a run of its words is another row's.
    """

    anchors: np.ndarray  # (synthetic,) int64 row of the training split
    sources: np.ndarray | None  # (synthetic, k) int32 rows of the training split, where rows are shifted
    weights: np.ndarray | None  # (synthetic, k) float32, sum 1
    teacher_logits: np.ndarray  # (synthetic, classes) float32
    teacher_features: np.ndarray | None = None  # (synthetic, width) float32, where the real rows have them
    # (synthetic, 4) int64, where rows are spliced: the row that lends its words, the first of them among its ordinary
    # tokens, the place of that one among the anchor's, and how many there are.
    splices: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.anchors)

    def arrays(self) -> dict[str, np.ndarray]:
        """Those that rows made in this way have, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in named.items() if array is not None}

    def taken(self, which: np.ndarray) -> "SyntheticRows":
        """Those numbered `which`, in that order."""
        return replace(self, **{name: array[which] for name, array in self.arrays().items()})

    @staticmethod
    def joined(parts: "list[SyntheticRows]") -> "SyntheticRows":
        """One after the other; all are made in the same way."""
        first, *_ = arrays = [part.arrays() for part in parts]
        return replace(parts[0], **{name: np.concatenate([each[name] for each in arrays]) for name in first})

    def shifts(self, which: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """(which, width) the points numbered `which` less their anchors' pooled `vectors` (rows, width)."""
        assert self.sources is not None, "spliced rows are not moved"
        assert self.weights is not None
        points = weighted_means(vectors, self.sources[which], self.weights[which])
        return points - vectors[self.anchors[which]]


def weighted_means(vectors: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(points, width) of `vectors` (rows, width) the mean over each point's `rows`, by its `weights` (points, k)."""
    return np.einsum("pk,pkd->pd", weights, vectors[rows])


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
    labels: torch.Tensor  # (rows,) int64; of a synthetic row its anchor's, which nobody vouches for
    has_label: torch.Tensor  # (rows,) bool: real rows
    teacher_logits: torch.Tensor | None  # (rows, classes)
    teacher_features: torch.Tensor | None  # (rows, width)
    shifts: torch.Tensor | None  # (rows, width); None where every row is real
    places: torch.Tensor  # (tokens,) int64: where the tokens are in the flattened (rows, length) arrays, ascending
    words: BatchWords | None  # where they were asked for


def epoch_order(seed: int, arm: str, epoch: int, rows: int) -> np.ndarray:
    """(rows,) the permutation of one epoch."""
    return seeds.generator(seed, arm, "order", epoch).permutation(rows)


def stream_of_rows(seed: int, arm: str, rows: int, start: int, count: int) -> np.ndarray:
    """(count,) rows from position `start` of an endless sequence of epochs: none repeats within an epoch."""
    pieces: list[np.ndarray] = []
    position = start
    while position < start + count:
        epoch, offset = divmod(position, rows)
        take = min(rows - offset, start + count - position)
        pieces.append(epoch_order(seed, arm, epoch, rows)[offset : offset + take])
        position += take
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def arrange(rows: np.ndarray, lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Shuffle `rows` into batches of like length; `lengths` (rows,) are the token counts beside them."""
    order = generator.permutation(len(rows))
    window = batch_size * _SORT_WINDOW_BATCHES
    batches = []
    for start in range(0, len(order), window):
        piece = order[start : start + window]
        piece = piece[np.argsort(lengths[piece], kind="stable")]
        batches += [piece[i : i + batch_size] for i in range(0, len(piece), batch_size)]
    return [rows[batches[i]] for i in generator.permutation(len(batches))]


def in_length_order(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Positions of `lengths` (rows,), longest first, for passes without a gradient: the first batch shows the peak
    memory."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


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
        "labels": split.labels[text_rows],
        "has_label": is_real,
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
