from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.worker.distill.test_networks import both_forms, mixed_batch, without_dropout
from tests.worker.distill.test_vectors import load
from tests.worker.distill.tiny_runs import LABELS, METHODS, events_of, make_run
from worker.distill.batches import Batch
from worker.distill.errors import InvalidJob
from worker.distill.events import EventLog
from worker.distill.loop import distil
from worker.distill.methods.opdf import MatrixProduct, MatrixProducts, factors
from worker.distill.network import Network


def a_weight(outputs: int, inputs: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)))


class TestMatrixProduct:
    @pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 64), (12, 35)])
    @pytest.mark.parametrize("tensors", [3, 5, 7])
    def test_begins_as_the_matrix_itself(self, shape: tuple[int, int], tensors: int) -> None:
        weight = a_weight(*shape)
        product = MatrixProduct("w", weight, tensors)
        torch.testing.assert_close(product.matrix(), weight, atol=1e-5, rtol=0)
        assert len(product.tensors) == tensors

    def test_of_768_by_768_has_3_and_a_quarter_times_the_parameters(self) -> None:
        product = MatrixProduct("w", a_weight(768, 768), 5)
        assert sum(t.numel() for t in product.tensors) / 768**2 == pytest.approx(3.25)

    def test_matches_the_definition_entry_by_entry(self) -> None:
        """W[(o1 o2), (i1 i2)] = sum over bonds of T_1[o1 i1, a] T_2[a, b] T_3[b, o2 i2]."""
        product = MatrixProduct("w", a_weight(6, 12), 3)
        first, middle, last = (t.detach() for t in product.tensors)
        (o1, o2), (i1, i2) = (3, 2), (4, 3)
        chain = torch.einsum("oia,ab,bpj->opij", first.view(o1, i1, -1), middle, last.view(-1, o2, i2))
        torch.testing.assert_close(product.matrix(), chain.reshape(6, 12))

    def test_alignment_pulls_back_whatever_left_the_teacher_but_for_the_central_tensor(self) -> None:
        product = MatrixProduct("w", a_weight(16, 16), 5)
        assert product.alignment_loss() == 0
        with torch.no_grad():
            for tensor in product.tensors:
                tensor.add_(0.1)
        product.alignment_loss().backward()
        pulled = [tensor.grad is not None and bool((tensor.grad > 0).all()) for tensor in product.tensors]
        assert pulled == [True, True, False, True, True]

    def test_factors_are_as_near_as_they_can_be(self) -> None:
        assert [factors(size, "w") for size in (768, 3072, 384, 6)] == [(32, 24), (64, 48), (24, 16), (3, 2)]

    def test_a_dimension_without_factors_is_refused_by_name(self) -> None:
        with pytest.raises(InvalidJob, match=r"product of layer\.weight: its dimension 31 has no factors"):
            MatrixProduct("layer.weight", a_weight(31, 32), 5)


class TestTeacherWithoutFactors:
    def test_is_refused_before_anything_is_computed(self, tmp_path: Path) -> None:
        """Harm: the error comes when the student begins, and the teacher's hours are lost."""
        folder = make_run(tmp_path / "run", "kd", combine=[METHODS["opdf"]])
        config = BertConfig.from_pretrained(folder / "teacher", intermediate_size=67, num_labels=len(LABELS))
        BertForSequenceClassification(config).save_pretrained(folder / "teacher")
        events = EventLog(folder / "events.jsonl")
        with pytest.raises(InvalidJob, match=r"layer\.0\.intermediate\S*: its dimension 67 has no factors"):
            distil(folder, events, lambda: False)
        assert [event["phase"] for event in events_of(folder, "phase")] == ["preparing"]


class TestMatrixProducts:
    def train(self, network: Network, batch: Batch, steps: int, weight: float = 0.0) -> MatrixProducts:
        products = MatrixProducts(5, weight, 1.0)
        network.begin_training(0.01, None, products)
        for number in range(steps):
            outputs = network.training_outputs(batch, number)
            torch.nn.functional.cross_entropy(outputs.logits, batch.labels).backward()
            network.step(1e-3)
        return products

    def test_both_forms_train_alike_and_every_tensor_moves(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", False)
        plain, packed = both_forms(without_dropout(model), compute)
        batch = mixed_batch(dataset, compute)
        moved = {}
        for network in (plain, packed):
            begun = {name: p.detach().clone() for name, p in self.train(network, batch, 0).parameters().items()}
            products = self.train(network, batch, 4)
            moved = {name: (p - begun[name]).abs().max().item() for name, p in products.parameters().items()}
            assert min(moved.values()) > 1e-5
        for name, parameter in plain.model.named_parameters():
            if "key.bias" not in name:  # the softmax does not see it, so its gradient is rounding, which Adam enlarges
                torch.testing.assert_close(packed.model.get_parameter(name), parameter, atol=2e-4, rtol=0, msg=name)

    def test_the_model_is_the_plain_one_at_any_time(self, tmp_path: Path) -> None:
        """Merged is wrapped: what the network computes is what the exported weights compute."""
        model, dataset, compute = load(tmp_path, "bert", False)
        names = [(name, p.shape) for name, p in model.named_parameters()]
        plain, packed = both_forms(model, compute)
        batch = mixed_batch(dataset, compute)
        products = self.train(packed, batch, 3)
        assert [(name, p.shape) for name, p in packed.model.named_parameters()] == names
        plain.model.load_state_dict(packed.model.state_dict())
        torch.testing.assert_close(packed.outputs(batch).logits, plain.outputs(batch).logits, atol=1e-5, rtol=0)
        trained = sum(p.numel() for p in products.parameters().values())
        assert trained > 2 * sum(product.weight.numel() for product in products._products.values())

    def test_a_heavy_alignment_holds_the_student_at_the_teacher(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", False)
        far = []
        for weight in (0.0, 1e4):
            _, network = both_forms(without_dropout(model), compute)
            products = self.train(network, mixed_batch(dataset, compute), 30, weight)
            far.append(sum(float(product.alignment_loss().detach()) for product in products._products.values()))
        assert far[1] < 0.5 * far[0]
