import itertools

import numpy as np

from worker.distill.order import arrange, in_batches, length_order, stream_of_rows
from worker.distill.seed import generator


class TestStreamOfRows:
    def test_every_row_comes_once_an_epoch(self) -> None:
        rows = stream_of_rows(7, "student", rows=50, start=0, count=100)
        assert sorted(rows[:50]) == list(range(50))
        assert sorted(rows[50:]) == list(range(50))
        assert not np.array_equal(rows[:50], rows[50:])

    def test_pieces_make_the_whole(self) -> None:
        whole = stream_of_rows(7, "student", rows=50, start=0, count=130)
        pieces = [stream_of_rows(7, "student", 50, start, count) for start, count in ((0, 33), (33, 60), (93, 37))]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)

    def test_arms_have_orders_of_their_own(self) -> None:
        student = stream_of_rows(7, "student", 50, 0, 50)
        baseline = stream_of_rows(7, "baseline.kd", 50, 0, 50)
        assert not np.array_equal(student, baseline)


class TestArrange:
    def test_every_row_is_in_one_batch(self) -> None:
        rows = np.arange(100, 1_100)
        batches = arrange(rows, np.random.default_rng(0).integers(3, 60, 1_000), 16, generator(1, "x"))
        assert sorted(np.concatenate(batches)) == list(rows)
        assert max(len(batch) for batch in batches) == 16

    def test_batches_hold_rows_of_like_length(self) -> None:
        lengths = np.random.default_rng(0).integers(3, 60, 2_000)
        batches = arrange(np.arange(2_000), lengths, 16, generator(1, "x"))
        padded = sum(lengths[batch].max() * len(batch) for batch in batches)
        assert lengths.sum() / padded > 0.9


class TestInLengthOrder:
    def test_every_row_comes_once_the_longest_first(self) -> None:
        lengths = np.random.default_rng(0).integers(3, 60, 200)
        order = length_order(lengths)
        assert sorted(order) == list(range(200))
        assert (np.diff(lengths[order]) <= 0).all()

    def test_from_the_beginning_of_any_batch_on_the_batches_are_the_same(self) -> None:
        lengths = np.random.default_rng(0).integers(3, 60, 200)
        order = length_order(lengths)
        batches = [list(batch) for batch in in_batches(order, lengths, lambda longest: 256 // longest)]
        assert list(itertools.chain(*batches)) == list(order)
        for done in range(len(batches)):
            answered = sum(map(len, batches[:done]))
            later = in_batches(order[answered:], lengths, lambda longest: 256 // longest)
            assert [list(batch) for batch in later] == batches[done:]
