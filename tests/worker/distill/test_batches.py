from pathlib import Path

import numpy as np
import torch

from tests.worker.distill.tiny_runs import make_run
from worker.distill.batches import collate
from worker.distill.data import Split, load_dataset
from worker.distill.rows import Predictions, SyntheticRows
from worker.distill.teacher import load_tokenizer


def tiny_split(tmp_path: Path, *, unlabelled_rows: int = 0) -> Split:
    folder = make_run(tmp_path / "run", unlabelled_rows=unlabelled_rows)
    return load_dataset(folder / "dataset", load_tokenizer(folder / "teacher"), max_length=24).train


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

    def test_an_unlabelled_row_has_the_teachers_word_alone_and_lends_no_label_to_what_is_made_of_it(
        self, tmp_path: Path
    ) -> None:
        split = tiny_split(tmp_path, unlabelled_rows=5)
        said = np.random.default_rng(0).normal(size=(len(split), 3)).astype(np.float32)
        nobody = np.empty((0, 2), np.float32)
        synthetic = SyntheticRows(
            np.array([152]), None, None, np.ones((1, 3), np.float32), None, np.array([[3, 0, 0, 1]])
        )
        rows = np.array([4, 152, len(split)])
        batch = collate(
            rows, split, torch.device("cpu"), teacher=Predictions(said, None), synthetic=synthetic, vectors=nobody
        )
        assert batch.has_label.tolist() == [True, False, False]
        assert 0 <= batch.labels.min() <= batch.labels.max() < 3
        assert batch.teacher_logits is not None
        np.testing.assert_array_equal(batch.teacher_logits[1], said[152])

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
