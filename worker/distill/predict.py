"""What a network says to real or made rows, in evaluation mode."""

import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from worker.distill.batches import Batch, collate
from worker.distill.data import Split
from worker.distill.network import Network, Outputs
from worker.distill.order import in_batches, length_order
from worker.distill.packed.layout import grid_length
from worker.distill.rows import Predictions

# A processor works fastest on batches whose activations stay in its cache, but no smaller ones: between 700 and 1,600
# tokens it makes no difference. A GPU wants as much at once as its memory holds by a wide margin, here counted with the
# padding. Scores of attention in memory would grow by the square.
_PROCESSOR_BATCH_TOKENS = 1_024
_GPU_BATCH_TOKENS = 32_768
_GPU_BATCH_PAIRS_OF_TOKENS = 2**23

SoFar = Callable[[Callable[[], Predictions]], None]


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
    begun: Predictions | None = None,
    so_far: SoFar = lambda _: None,
) -> Predictions:
    """As `predict_logits`, and the features where they are kept.

    `so_far` is told after each batch how to have what has been said by then, of the longest rows, as the one argument
    that a later call needs to go on from there: `begun`.
    """
    rows = np.arange(len(split)) if rows is None else rows
    return predict_batches(
        network,
        split.lengths[rows],
        lambda which: collate(rows[which], split, device),
        device,
        after_batch=after_batch,
        keeps_features=keeps_features,
        begun=begun,
        so_far=so_far,
    )


def predict_batches(
    network: Network,
    lengths: np.ndarray,
    make: Callable[[np.ndarray], Batch],
    device: torch.device,
    *,
    after_batch: Callable[[int], None],
    keeps_features: bool,
    begun: Predictions | None = None,
    so_far: SoFar = lambda _: None,
) -> Predictions:
    """As `predict`, for rows of any kind: at least one, of `lengths` (rows,), of which `make` makes batches by their
    positions."""
    order = length_order(lengths)
    said: Predictions | None = None
    answered = 0
    if begun is not None:
        said, answered = _room(begun, len(lengths)), len(begun.logits)
        _put(said, order[:answered], begun)
    batches = in_batches(order[answered:], lengths, lambda longest: _batch_rows(longest, device))
    for which, answer in _ask(network, batches, make, keeps_features):
        if said is None:
            said = _room(answer, len(lengths))
        _put(said, which, answer)
        answered += len(which)
        after_batch(len(which))
        so_far(functools.partial(_taken, said, order[:answered]))
    assert said is not None, "a split has at least one row: the dataset's preparation saw to it"
    return said


def _room(like: Predictions, rows: int) -> Predictions:
    """Room for what is said to so many rows, as wide as in `like`."""
    features = None if like.features is None else np.empty((rows, like.features.shape[1]), np.float32)
    return Predictions(np.empty((rows, like.logits.shape[1]), np.float32), features)


def _put(said: Predictions, which: np.ndarray, answer: Predictions) -> None:
    said.logits[which] = answer.logits
    if said.features is not None:
        said.features[which] = answer.features


def in_order_of_pass(said: Predictions, lengths: np.ndarray) -> Predictions:
    """What was said to all rows, of `lengths` (rows,), as the `begun` of a pass that has no more to ask."""
    return _taken(said, length_order(lengths))


def _taken(said: Predictions, which: np.ndarray) -> Predictions:
    return Predictions(said.logits[which], None if said.features is None else said.features[which])


def _batch_rows(longest: int, device: torch.device) -> int:
    """How many rows a batch has that suits `device`, where the longest of them has so many tokens."""
    if device.type != "cuda":
        return max(1, _PROCESSOR_BATCH_TOKENS // max(1, longest))
    length = grid_length(longest, device.type)
    return max(1, min(_GPU_BATCH_TOKENS // length, _GPU_BATCH_PAIRS_OF_TOKENS // length**2))


def _ask(
    network: Network, batches: Iterable[np.ndarray], make: Callable[[np.ndarray], Batch], keeps_features: bool
) -> Iterator[tuple[np.ndarray, Predictions]]:
    """Each of `batches` with what `network` says to what `make` makes of it; a GPU has the next one to work on when the
    answer to one is waited for."""
    waiting: tuple[np.ndarray, _Answer] | None = None
    for which in batches:
        answer = _Answer(network.outputs(make(which)), keeps_features)
        if waiting is not None:
            yield waiting[0], waiting[1].read()
        waiting = which, answer
    if waiting is not None:
        yield waiting[0], waiting[1].read()


class _Answer:
    """Outputs on their way to the processor."""

    def __init__(self, outputs: Outputs, keeps_features: bool) -> None:
        self._logits = outputs.logits.to("cpu", non_blocking=True)
        self._features = outputs.features.to("cpu", non_blocking=True) if keeps_features else None
        self._is_there = torch.cuda.Event() if outputs.logits.is_cuda else None
        if self._is_there is not None:
            self._is_there.record()

    def read(self) -> Predictions:
        if self._is_there is not None:
            self._is_there.synchronize()
        return Predictions(self._logits.numpy(), None if self._features is None else self._features.numpy())


def rows_not_finite(logits: np.ndarray) -> np.ndarray:
    """Those rows of `logits` (rows, classes) that are not all finite numbers: nothing can be measured by them."""
    return np.flatnonzero(~np.isfinite(logits).all(1))
