from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.distill.test_vectors import load
from worker.distill.batches import collate
from worker.distill.data import Split
from worker.distill.device import Compute
from worker.distill.families import word_table
from worker.distill.labelling import label_rows, predict_synthetic
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.rows import SyntheticRows
from worker.distill.splicing import Splices, splice

NO_VECTORS = np.empty((0, 32), np.float32)  # spliced rows are not made of any; a feature is as wide


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Network, Compute, Split, SyntheticRows]:
    """A teacher and 90 spliced rows, more than a batch, with its word on them."""
    model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
    teacher, split = build_network(model, compute), dataset.train
    starts, ends = np.random.default_rng(0).integers(len(split), size=(2, 90))
    drawn = splice(starts, ends, split, np.random.default_rng(1))
    return teacher, compute, split, label(teacher, compute, split, drawn)


def label(teacher: Network, compute: Compute, split: Split, drawn: Splices) -> SyntheticRows:
    return label_rows(
        drawn, teacher, split, NO_VECTORS, compute.device, 3, keeps_features=True, after_batch=lambda _: None
    )


def predict(network: Network, compute: Compute, split: Split, synthetic: SyntheticRows) -> np.ndarray:
    return predict_synthetic(network, synthetic, split, NO_VECTORS, compute.device, after_batch=lambda _: None).logits


class TestPredictSynthetic:
    def test_asks_about_the_rows_that_were_labelled(
        self, labelled: tuple[Network, Compute, Split, SyntheticRows]
    ) -> None:
        """Harm: a student scored on other rows than those it would train on."""
        teacher, compute, split, synthetic = labelled
        said = predict(teacher, compute, split, synthetic)
        np.testing.assert_array_equal(said, synthetic.teacher_logits)
        assert np.unique(said[:, 0]).size > 80, "rows that all look alike would not tell"

    def test_rows_keep_what_is_theirs_when_some_are_taken_and_joined(
        self, labelled: tuple[Network, Compute, Split, SyntheticRows]
    ) -> None:
        teacher, compute, split, synthetic = labelled
        parts = [synthetic.taken(np.array(which)) for which in ([80, 3], [41, 7, 12])]
        drawn = Splices(synthetic.anchors, synthetic.splices).taken(np.array([80, 3, 41, 7, 12]))
        again = label(teacher, compute, split, drawn)
        for name, array in SyntheticRows.joined(parts).arrays().items():
            np.testing.assert_allclose(array, again.arrays()[name], atol=1e-5)
        said = predict(teacher, compute, split, SyntheticRows.joined(parts))
        np.testing.assert_allclose(said, again.teacher_logits, atol=1e-5)

    def test_both_can_be_stopped_between_batches(self, labelled: tuple[Network, Compute, Split, SyntheticRows]) -> None:
        """Harm: a job that is told to stop makes the machine wait until all candidates are labelled."""
        teacher, compute, split, synthetic = labelled
        drawn = Splices(synthetic.anchors, synthetic.splices)
        calls: list[str] = []
        label_rows(
            drawn, teacher, split, NO_VECTORS, compute.device, 3, keeps_features=False,
            after_batch=lambda _: calls.append("labelled"),
        )  # fmt: skip
        predict_synthetic(
            teacher, synthetic, split, NO_VECTORS, compute.device, after_batch=lambda _: calls.append("scored")
        )
        assert calls == ["labelled"] * (len(calls) // 2) + ["scored"] * (len(calls) // 2)
        assert len(calls) >= 2


class TestLabelRows:
    def test_those_without_a_finite_answer_are_gone_and_the_others_keep_what_is_theirs(
        self, labelled: tuple[Network, Compute, Split, SyntheticRows]
    ) -> None:
        """Harm: one word that is broken makes no number of the student; or each row after it gets the answer to
        another."""
        teacher, compute, split, whole = labelled
        assert whole.splices is not None
        ids = collate(len(split) + np.arange(len(whole)), split, compute.device, synthetic=whole).ids
        broken = ids[0, 1]
        good = (ids != broken).all(1).nonzero().flatten().numpy()
        assert 0 < len(good) < len(whole)
        with torch.no_grad():
            word_table(teacher.model)[broken] = torch.nan
        teacher.refresh()
        kept = label(teacher, compute, split, Splices(whole.anchors, whole.splices)).arrays()
        expected = whole.taken(good).arrays()
        assert set(kept) == set(expected) == {"anchors", "splices", "teacher_logits", "teacher_features"}
        for name, array in expected.items():
            np.testing.assert_allclose(kept[name], array, atol=1e-5)
