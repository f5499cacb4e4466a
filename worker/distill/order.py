"""In which order rows are taken, and which of them make a batch: drawn again from the seed wherever a run goes on."""

from collections.abc import Callable, Iterator

import numpy as np

from worker.distill import seed as seeds

# Rows are sorted by length inside a window of so many batches: wide enough that padding all but
# vanishes, narrow enough that a batch is still a random draw.
_SORT_WINDOW_BATCHES = 32


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


def length_order(lengths: np.ndarray) -> np.ndarray:
    """Positions of `lengths` (rows,), longest first: the first batch of a pass without a gradient shows its peak
    memory."""
    return np.argsort(-lengths, kind="stable")


def in_batches(order: np.ndarray, lengths: np.ndarray, batch_rows: Callable[[int], int]) -> Iterator[np.ndarray]:
    """The positions in `order`, longest first, in batches; `batch_rows` says how many rows one has whose longest has so
    many tokens. From the beginning of any batch on, the batches are the same."""
    start = 0
    while start < len(order):
        rows = batch_rows(int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
