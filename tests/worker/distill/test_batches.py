from pathlib import Path

import numpy as np
import torch

from tests.worker.distill.tiny_runs import make_run
from worker.distill.batches import Predictions, SyntheticRows, arrange, collate, in_length_order, stream_of_rows
from worker.distill.data import Split, load_dataset
from worker.distill.seed import generator
from worker.distill.teacher import load_tokenizer


def tiny_split(tmp_path: Path) -> Split:
    folder = make_run(tmp_path / "run")
    return load_dataset(folder / "dataset", load_tokenizer(folder / "teacher"), max_length=24).train


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


class TestCollate:
    def test_pads_on_the_right_and_masks_the_padding(self, tmp_path: Path) -> None:
        split = tiny_split(tmp_path)
        batch = collate(np.arange(20), split, torch.device("cpu"))
        for row in range(20):
            tokens = split.ids[split.offsets[row] : split.offsets[row + 1]]
            np.testing.assert_array_equal(batch.ids[row][batch.mask[row]].numpy(), tokens)
            assert not batch.mask[row, len(tokens) :].any()

    def test_a_synthetic_row_stands_on_its_anchors_tokens_and_has_no_label(self, tmp_path: Path) -> None:
        split = tiny_split(tmp_path)
        teacher_logits = np.random.default_rng(0).normal(size=(len(split), 3)).astype(np.float32)
        before = teacher_logits.copy()
        vectors = np.repeat(np.arange(len(split), dtype=np.float32)[:, None], 2, 1)
        sources = np.array([[1, 2], [20, 30]], np.int32)
        weights = np.array([[0.5, 0.5], [0.75, 0.25]], np.float32)
        synthetic = SyntheticRows(np.array([4, 9]), sources, weights, np.full((2, 3), 7.0, np.float32))
        rows = np.array([4, len(split) + 1, 9])
        teacher = Predictions(teacher_logits, None)
        batch = collate(rows, split, torch.device("cpu"), teacher=teacher, synthetic=synthetic, vectors=vectors)
        assert torch.equal(batch.ids[1], batch.ids[2])
        assert batch.has_label.tolist() == [True, False, True]
        assert batch.shifts is not None
        assert batch.shifts.tolist() == [[0.0, 0.0], [13.5, 13.5], [0.0, 0.0]]
        assert batch.teacher_logits is not None
        np.testing.assert_array_equal(batch.teacher_logits[1], [7.0, 7.0, 7.0])
        np.testing.assert_array_equal(batch.teacher_logits[0], teacher_logits[4])
        np.testing.assert_array_equal(teacher_logits, before)

    def test_lists_the_words_and_the_places_of_the_tokens(self, tmp_path: Path) -> None:
        split = tiny_split(tmp_path)
        batch = collate(np.arange(20), split, torch.device("cpu"), lists_words=True)
        assert batch.words is not None
        expected = np.concatenate([split.ids[split.offsets[row] : split.offsets[row + 1]] for row in range(20)])
        np.testing.assert_array_equal(batch.ids.flatten()[batch.places], expected)
        np.testing.assert_array_equal(batch.words.ids, np.unique(expected))
        found = batch.words.ids[batch.words.which]
        assert torch.equal(found[batch.mask], batch.ids[batch.mask])
        assert torch.equal(found[~batch.mask], batch.ids[:, :1].expand_as(batch.ids)[~batch.mask])

    def test_passes_without_gradient_see_every_row_longest_first(self, tmp_path: Path) -> None:
        split = tiny_split(tmp_path)
        order = np.concatenate(list(in_length_order(split.lengths, 32)))
        assert sorted(order) == list(range(len(split)))
        assert (np.diff(split.lengths[order]) <= 0).all()
