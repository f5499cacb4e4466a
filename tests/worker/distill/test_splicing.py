from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.distill.test_vectors import load
from worker.distill.batches import collate
from worker.distill.data import Split
from worker.distill.rows import SyntheticRows
from worker.distill.splicing import Splices, splice

SPECIAL = 1


def make_split(words: list[list[int]], *, has_pairs: bool = False) -> Split:
    """Rows of these words between special tokens; of a pair the second half of the words is the second text."""
    ids: list[int] = []
    lengths = []
    for row in words:
        half = len(row) // 2 if has_pairs else len(row)
        tokens = [SPECIAL, *row[:half], SPECIAL, *([*row[half:], SPECIAL] if has_pairs else [])]
        ids += tokens
        lengths.append(len(tokens))
    flat = np.array(ids, np.int32)
    return Split(
        ids=flat,
        segments=np.zeros(len(flat), np.int8),
        is_special=flat == SPECIAL,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.zeros(len(words), np.int64),
    )


def some_split(*, has_pairs: bool = False) -> Split:
    generator = np.random.default_rng(5)
    lengths = [0, 1, 2, *generator.integers(1, 12, size=57)]
    return make_split(
        [[100 * row + word for word in range(2, 2 + n)] for row, n in enumerate(lengths)], has_pairs=has_pairs
    )


def some_splices(split: Split, seed: int = 0) -> Splices:
    starts, ends = np.random.default_rng(1).integers(len(split), size=(2, 400))
    return splice(starts, ends, split, np.random.default_rng(seed))


def words_of(split: Split, row: int) -> list[int]:
    tokens = slice(split.offsets[row], split.offsets[row + 1])
    return [int(word) for word in split.ids[tokens][~split.is_special[tokens]]]


def collated(split: Split, drawn: Splices) -> tuple[np.ndarray, np.ndarray]:
    """(rows, length) ids and whether they are special, of the spliced rows among as many real ones."""
    synthetic = drawn.labelled(np.zeros((len(drawn), 2), np.float32))
    rows = np.concatenate([np.arange(len(split)), len(split) + np.arange(len(drawn))])
    batch = collate(rows, split, torch.device("cpu"), synthetic=synthetic)
    assert batch.shifts is None
    return batch.ids.numpy()[len(split) :], batch.is_special.numpy()[len(split) :]


@pytest.mark.parametrize("has_pairs", [False, True])
class TestCollated:
    def test_hold_the_anchors_words_but_for_the_run_that_is_lent(self, has_pairs: bool) -> None:
        split = some_split(has_pairs=has_pairs)
        drawn = some_splices(split)
        ids, is_special = collated(split, drawn)
        for number, (anchor, (lender, first, place, count)) in enumerate(
            zip(drawn.anchors, drawn.splices, strict=True)
        ):
            wanted = words_of(split, anchor)
            wanted[place : place + count] = words_of(split, lender)[first : first + count]
            assert ids[number][~is_special[number]].tolist() == wanted

    def test_keep_the_anchors_special_tokens_where_they_are(self, has_pairs: bool) -> None:
        split = some_split(has_pairs=has_pairs)
        drawn = some_splices(split)
        ids, is_special = collated(split, drawn)
        for number, anchor in enumerate(drawn.anchors):
            own = slice(split.offsets[anchor], split.offsets[anchor + 1])
            length = split.lengths[anchor]
            assert is_special[number, :length].tolist() == split.is_special[own].tolist()
            assert is_special[number, length:].all()
            assert (ids[number, :length][split.is_special[own]] == SPECIAL).all()
            assert (ids[number, length:] == 0).all()

    def test_leave_the_real_rows_of_the_batch_alone(self, has_pairs: bool) -> None:
        split = some_split(has_pairs=has_pairs)
        synthetic = some_splices(split).labelled(np.zeros((400, 2), np.float32))
        plain = collate(np.arange(len(split)), split, torch.device("cpu"))
        mixed = collate(np.arange(len(split) + 30), split, torch.device("cpu"), synthetic=synthetic)
        np.testing.assert_array_equal(mixed.ids[: len(split), : plain.ids.shape[1]], plain.ids)


class TestSplice:
    def test_lends_no_more_than_either_row_has(self) -> None:
        split = some_split()
        drawn = some_splices(split)
        lenders, firsts, places, counts = drawn.splices.T
        own, lent = split.words[drawn.anchors], split.words[lenders]
        assert (counts <= np.minimum(own, lent)).all()
        assert (counts >= np.minimum(1, np.minimum(own, lent))).all()
        assert (firsts + counts <= lent).all()
        assert (places + counts <= own).all()

    def test_lends_any_share_from_everywhere_to_everywhere(self) -> None:
        """Harm: a bound that is off by one, so that the last word of a row is never lent, or never replaced."""
        split = make_split([[10, 11, 12, 13, 14]] * 2)
        starts = np.zeros(1_000, np.int64)
        drawn = splice(starts, starts + 1, split, np.random.default_rng(0))
        _, firsts, places, counts = drawn.splices.T
        assert set(counts) == {1, 2, 3, 4, 5}
        assert abs(counts.mean() / 5 - 0.5) < 0.05
        for count in range(1, 6):
            assert set(firsts[counts == count]) == set(places[counts == count]) == set(range(6 - count))

    def test_one_seed_gives_one_set(self) -> None:
        split = some_split()
        first, second, other = (some_splices(split, seed=seed).splices for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)

    def test_a_row_without_words_stays_as_it_is(self) -> None:
        split = some_split()
        nothing = np.zeros(5, np.int64)  # row 0 has no words
        other = np.arange(5, 10)
        for starts, ends in ((nothing, other), (other, nothing)):
            drawn = splice(starts, ends, split, np.random.default_rng(0))
            ids, is_special = collated(split, drawn)
            for number, row in enumerate(starts):
                assert ids[number][~is_special[number]].tolist() == words_of(split, row)


class TestOnRealTokens:
    def test_words_are_counted_without_the_special_tokens(self, tmp_path: Path) -> None:
        _, dataset, _ = load(tmp_path, "bert", has_pairs=True)
        split = dataset.train
        counted = [len(words_of(split, row)) for row in range(len(split))]
        assert split.words.tolist() == counted
        assert (split.lengths - split.words == 3).all()  # [CLS] and two [SEP]

    def test_labels_and_features_come_along(self) -> None:
        drawn = some_splices(some_split())
        rows = drawn.labelled(np.ones((400, 2), np.float32), np.ones((400, 3), np.float32))
        assert isinstance(rows, SyntheticRows)
        assert len(rows) == 400
        taken = drawn.taken(np.array([3, 7]))
        np.testing.assert_array_equal(taken.anchors, drawn.anchors[[3, 7]])
        np.testing.assert_array_equal(taken.splices, drawn.splices[[3, 7]])
