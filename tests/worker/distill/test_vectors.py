from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.tiny_models import FAMILIES
from tests.worker.distill.tiny_runs import LABELS, make_run
from worker.distill.batches import collate
from worker.distill.config import JobConfig
from worker.distill.data import Dataset, load_dataset
from worker.distill.device import Compute, choose_compute
from worker.distill.errors import TeacherNotFinite, VectorInterfaceMismatch
from worker.distill.families import word_table
from worker.distill.rows import SyntheticRows
from worker.distill.teacher import load_teacher, load_tokenizer
from worker.distill.vectors import check_vector_interface, embed, forward_ids, forward_vectors, write_pooled_vectors


def load(tmp_path: Path, family: str, has_pairs: bool) -> tuple[torch.nn.Module, Dataset, Compute]:
    folder = make_run(tmp_path / "run", family=family, has_pairs=has_pairs)
    job = JobConfig.load(folder / "job.json")
    compute = choose_compute(job.training, threads=1)
    model = load_teacher(folder / "teacher", LABELS, compute, may_grow_head=False, seed=0)
    dataset = load_dataset(folder / "dataset", load_tokenizer(folder / "teacher"), max_length=24)
    return model.eval(), dataset, compute


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("has_pairs", [False, True])
class TestVectorInterface:
    @torch.inference_mode()
    def test_vectors_give_the_logits_of_token_ids(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        batch = collate(np.arange(40), dataset.train, compute.device)
        assert batch.mask.sum(1).unique().numel() > 1, "rows of one length would not test padding"
        by_vectors = forward_vectors(model, batch, embed(batch, word_table(model)))
        torch.testing.assert_close(by_vectors, forward_ids(model, batch), atol=1e-5, rtol=0)

    def test_the_check_passes(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        check_vector_interface(model, dataset.train, compute)

    def test_a_lifted_point_is_the_mean_of_its_vectors(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        """Harm: a point that the teacher labels elsewhere than where it was drawn."""
        model, dataset, compute = load(tmp_path, family, has_pairs)
        split, table = dataset.train, word_table(model)
        pooled = write_pooled_vectors(split, table, compute, tmp_path / "vectors.npy")
        generator = np.random.default_rng(0)
        anchors, *sources = generator.integers(len(split), size=(4, 30))
        weights = generator.dirichlet(np.ones(3), size=30).astype(np.float32)
        points = sum(weights[:, [k]] * pooled[sources[k]] for k in range(3))
        synthetic = SyntheticRows(anchors, np.column_stack(sources), weights, np.zeros((30, 3), np.float32))
        rows = len(split) + np.arange(30)
        batch = collate(rows, split, compute.device, synthetic=synthetic, vectors=pooled)
        lifted = embed(batch, table) * batch.mask[:, :, None]
        means = (lifted.sum(1) / batch.mask.sum(1)[:, None]).detach().cpu().numpy()
        np.testing.assert_allclose(means, points, atol=1e-5)

    def test_special_tokens_and_padding_are_not_moved(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        split, table = dataset.train, word_table(model)
        vectors = np.zeros((len(split), table.shape[1]), np.float32)
        vectors[10] = 1.0
        sources, weights = np.full((8, 1), 10, np.int32), np.ones((8, 1), np.float32)
        synthetic = SyntheticRows(np.arange(8), sources, weights, np.zeros((8, 3), np.float32))
        moved = collate(len(split) + np.arange(8), split, compute.device, synthetic=synthetic, vectors=vectors)
        still = collate(np.arange(8), split, compute.device)
        difference = (embed(moved, table) - embed(still, table)).abs().sum(2) > 0
        assert torch.equal(difference, ~still.is_special)


class TestRefusal:
    def test_a_teacher_of_broken_weights_is_told_from_one_of_another_input_layer(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        with torch.no_grad():
            model.get_submodule("classifier").weight.fill_(float("nan"))  # type: ignore[operator, union-attr]
        with pytest.raises(TeacherNotFinite, match="weights are broken"):
            check_vector_interface(model, dataset.train, compute)

    def test_a_model_whose_input_layer_cannot_be_bypassed_is_refused(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)

        def scaled(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            return output * 1.01  # a look-up that does more than look up

        model.get_submodule("bert.embeddings.word_embeddings").register_forward_hook(scaled)
        with pytest.raises(VectorInterfaceMismatch, match="differ by"):
            check_vector_interface(model, dataset.train, compute)
