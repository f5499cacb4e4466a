"""Rows between two neighbours by their words: a run of one row's words in the place of as many of the other's.

The `splice` lift. `shift` moves all tokens of a row together, of which an encoder keeps little; a spliced row says
something else, made of what two neighbours on the map say.
"""

from dataclasses import dataclass

import numpy as np

from worker.distill.data import Split
from worker.distill.rows import SyntheticRows


@dataclass(frozen=True)
class Splices:
    """Spliced rows before the teacher has seen them."""

    anchors: np.ndarray  # (rows,) int64: the real row that keeps the rest of its words
    splices: np.ndarray  # (rows, 4) int64: which words of which row are in their place, as in SyntheticRows

    def __len__(self) -> int:
        return len(self.anchors)

    def labelled(self, logits: np.ndarray, features: np.ndarray | None = None) -> SyntheticRows:
        return SyntheticRows(self.anchors, None, None, logits, features, self.splices)

    def taken(self, which: np.ndarray) -> "Splices":
        return Splices(self.anchors[which], self.splices[which])


def splice(starts: np.ndarray, ends: np.ndarray, split: Split, generator: np.random.Generator) -> Splices:
    """The rows `starts`, of each a run of words from its row of `ends`: any share of them, but at least one.

    The run lies anywhere in either row, and is no longer than the shorter of the two. Words are ordinary tokens; of a
    pair of texts those of both. A row without any stays as it is.
    """
    own, lent = split.words[starts], split.words[ends]
    wanted = np.rint(generator.random(len(starts)) * own).astype(np.int64)
    counts = np.minimum(np.maximum(1, wanted), np.minimum(own, lent))
    firsts = generator.integers(lent - counts + 1)
    places = generator.integers(own - counts + 1)
    return Splices(starts, np.column_stack([ends, firsts, places, counts]))
