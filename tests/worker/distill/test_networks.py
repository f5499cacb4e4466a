"""The packed form computes what transformers computes: logits, gradients and whole training steps."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.tiny_models import FAMILIES
from tests.worker.distill.test_vectors import load
from worker.distill.batches import Batch, collate
from worker.distill.config import StudentConfig
from worker.distill.data import Dataset
from worker.distill.device import Compute
from worker.distill.families import word_table
from worker.distill.network import Network
from worker.distill.networks import PlainNetwork, build_network
from worker.distill.packed.dropout import BitMasks, keep
from worker.distill.packed.functions import Attention, FirstAttention, fused_attention
from worker.distill.packed.layout import Grid, Packing, TokenGrid, grid_length
from worker.distill.packed.network import PackedNetwork, can_pack
from worker.distill.packed.weights import FlatWeights
from worker.distill.rows import SyntheticRows
from worker.distill.student import TeacherLayersStudent


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """Both forms then train alike; their masks come from different generators."""
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(model.config, field):
            setattr(model.config, field, 0.0)
    model.config.seq_classif_dropout = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def both_forms(model: torch.nn.Module, compute: Compute) -> tuple[PlainNetwork, PackedNetwork]:
    packed = build_network(copy.deepcopy(model), compute)
    assert isinstance(packed, PackedNetwork)
    return PlainNetwork(model, compute), packed


def mixed_batch(dataset: Dataset, compute: Compute) -> Batch:
    """Real and synthetic rows of unlike length."""
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(len(dataset.train), 32)).astype(np.float32)
    sources = generator.integers(len(dataset.train), size=(9, 1), dtype=np.int32)
    synthetic = SyntheticRows(np.arange(20, 29), sources, np.ones((9, 1), np.float32), np.zeros((9, 3), np.float32))
    rows = np.concatenate([np.arange(14), len(dataset.train) + np.arange(9)])
    batch = collate(rows, dataset.train, compute.device, synthetic=synthetic, vectors=vectors, lists_words=True)
    assert batch.mask.sum(1).unique().numel() > 1, "rows of one length would not test padding"
    assert int(batch.mask.sum()) % 32, "without filled up tokens their part is not tested"
    return batch


def assert_same_gradients(
    plain: PlainNetwork, packed: PackedNetwork, batch: Batch, *, parameters_at_least: int
) -> None:
    for network in (plain, packed):
        logits = network.training_outputs(batch, 0).logits
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
    packed.weights.gather_gradients()
    trained = {name: parameter for name, parameter in plain.model.named_parameters() if parameter.requires_grad}
    assert len(trained) >= parameters_at_least
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        torch.testing.assert_close(packed.weights.gradient(name), parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("has_pairs", [False, True])
class TestPackedNetwork:
    def test_gives_the_plain_logits(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        plain, packed = both_forms(model, compute)
        batch = mixed_batch(dataset, compute)
        ours, theirs = packed.outputs(batch), plain.outputs(batch)
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.features, theirs.features, atol=1e-5, rtol=0)
        # What the last linear layer reads is what the logits are made of.
        classifier = plain.model.get_submodule(packed.family.classifier_path)
        with torch.inference_mode():
            torch.testing.assert_close(classifier(theirs.features), theirs.logits, atol=1e-5, rtol=0)

    def test_gives_the_plain_gradients(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        plain, packed = both_forms(without_dropout(model), compute)
        assert_same_gradients(plain, packed, mixed_batch(dataset, compute), parameters_at_least=60)

    @pytest.mark.parametrize("trains_words", [False, True])
    def test_trains_as_the_plain_form_does(
        self, family: str, has_pairs: bool, trains_words: bool, tmp_path: Path
    ) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        before = word_table(model).clone()
        rows = np.unique(dataset.train.ids) if trains_words else None
        plain, packed = both_forms(without_dropout(model), compute)
        batches = [
            collate(np.arange(start, start + 16), dataset.train, compute.device, lists_words=True)
            for start in range(0, 80, 16)
        ]
        batches.append(mixed_batch(dataset, compute))
        for network in (plain, packed):
            network.begin_training(0.01, rows, None)
            for number, batch in enumerate(batches):
                torch.nn.functional.cross_entropy(
                    network.training_outputs(batch, number).logits, batch.labels
                ).backward()
                network.step(1e-3)
        torch.testing.assert_close(
            packed.outputs(batches[-1]).logits, plain.outputs(batches[-1]).logits, atol=2e-4, rtol=0
        )
        torch.testing.assert_close(word_table(packed.model), word_table(plain.model), atol=1e-5, rtol=0)
        assert torch.equal(word_table(plain.model), before) != trains_words
        # A checkpoint of either form has the same entries.
        assert set(plain.optimizer_state()) == set(packed.optimizer_state())
        assert set(plain.trained_weights()) == set(packed.trained_weights())

    def test_is_near_the_plain_logits_in_bf16(self, family: str, has_pairs: bool, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs)
        plain = PlainNetwork(model, compute)
        packed = build_network(copy.deepcopy(model), replace(compute, precision="bf16"))
        batch = mixed_batch(dataset, compute)
        wanted = plain.outputs(batch).logits
        assert (packed.outputs(batch).logits - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
class TestOneLayer:
    """The first layer is the last: no other attention comes before it."""

    def test_gives_the_plain_logits_and_gradients(self, family: str, tmp_path: Path) -> None:
        teacher, dataset, compute = load(tmp_path, family, has_pairs=False)
        student = StudentConfig(layers=1, hidden_size="same", init="teacher_layers", word_vectors="trained")
        model = TeacherLayersStudent(student).wrap(teacher, compute)
        plain, packed = both_forms(without_dropout(model), compute)
        batch = mixed_batch(dataset, compute)
        torch.testing.assert_close(packed.outputs(batch).logits, plain.outputs(batch).logits, atol=1e-5, rtol=0)
        assert_same_gradients(plain, packed, batch, parameters_at_least=20)


def filled(batch: Batch) -> Batch:
    """Five rows of a round number of tokens, without content, which attention does not ask for."""
    present = torch.ones(5, grid_length(1, batch.mask.device.type), dtype=torch.bool, device=batch.mask.device)
    return replace(batch, mask=present, places=present.flatten().nonzero().flatten())


class TestFusedAttention:
    @pytest.mark.parametrize("is_full", [False, True])
    def test_gives_what_the_one_written_by_hand_gives(self, is_full: bool, tmp_path: Path) -> None:
        """What a GPU without a kernel for packed tokens uses, here on a processor: values and gradients."""
        _, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        batch = mixed_batch(dataset, compute)
        packing, _ = Packing.of(filled(batch) if is_full else batch)
        grid = Grid.of(packing, heads=4)
        assert (grid.padding is None) == is_full
        draw = torch.Generator().manual_seed(0)
        values = torch.randn(len(packing.row_of), 96, generator=draw).to(compute.device)
        # Of what fills up nothing is asked, so no gradient comes from there.
        gradient = torch.randn(len(values), 32, generator=draw).to(compute.device)
        gradient[packing.real_tokens :] = 0
        found = []
        for attend in (
            lambda given: Attention.apply(given, grid, None, None, 0.0),
            lambda given: fused_attention(given, grid, 0.0),
        ):
            leaf = values.clone().requires_grad_()
            context = attend(leaf)
            (of_values,) = torch.autograd.grad(context, leaf, gradient)
            found.append((context[: packing.real_tokens], of_values))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


class TestFirstAttention:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("chance", [0.0, 0.3])
    @pytest.mark.parametrize("is_full", [False, True])
    def test_gives_the_first_tokens_what_attention_gives_all(
        self, dtype: torch.dtype, chance: float, is_full: bool, tmp_path: Path
    ) -> None:
        """Values and gradients, a bias and dropout of the same weights included."""
        _, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        batch = mixed_batch(dataset, compute)
        packing, _ = Packing.of(filled(batch) if is_full else batch)
        assert (TokenGrid.of(packing).padding is None) == is_full
        heads, length = 4, packing.length
        draw = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw).to(compute.device, dtype)

        values, bias = drawn(len(packing.row_of), 96), drawn(heads, length, length).float()
        gradient = drawn(packing.rows, 32)
        starts = packing.starts()
        mask = all_masks = None
        if chance:
            mask = BitMasks(1).draw((packing.rows, length, heads), chance, torch.float32).to(compute.device)
            narrow = mask if dtype is torch.float32 else mask.to(torch.int16)
            of_first = narrow.permute(0, 2, 1).reshape(packing.rows * heads, 1, length)
            all_masks = of_first.expand(-1, length, -1).contiguous()
        found = []
        for is_first in (True, False):
            leaves = [values.clone().requires_grad_(), bias.clone().requires_grad_()]
            projected, of_distance = leaves
            if is_first:
                context = FirstAttention.apply(
                    projected[starts, :32],
                    projected[:, 32:],
                    TokenGrid.of(packing),
                    of_distance[:, 0],
                    mask,
                    chance,
                    heads,
                )
            else:
                whole = Attention.apply(projected, Grid.of(packing, heads), of_distance, all_masks, chance)
                context = whole.index_select(0, starts)
            found.append([context, *torch.autograd.grad(context, leaves, gradient)])
        assert found[0][1].abs().sum() > 0
        near = {"atol": 1e-5, "rtol": 1e-4} if dtype is torch.float32 else {"atol": 0.03, "rtol": 0.03}
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, **near)


class TestModel:
    def test_keeps_its_names_and_saves_as_before(self, tmp_path: Path) -> None:
        model, _, compute = load(tmp_path, "bert", has_pairs=False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        build_network(model, compute)
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)

    @pytest.mark.parametrize(("field", "value"), [("hidden_act", "relu"), ("is_decoder", True)])
    def test_of_another_kind_is_computed_as_transformers_does(self, field: str, value: object, tmp_path: Path) -> None:
        """Harm: an activation that is silently taken for another one."""
        model, _, compute = load(tmp_path, "bert", has_pairs=False)
        assert can_pack(model)
        setattr(model.config, field, value)
        assert not can_pack(model)
        assert isinstance(build_network(model, compute), PlainNetwork)

    def test_of_bf16_reads_its_masters_again_after_they_changed(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        network = build_network(model, replace(compute, precision="bf16"))
        batch = mixed_batch(dataset, compute)
        before = network.outputs(batch).logits
        with torch.no_grad():
            model.get_submodule("classifier").weight.mul_(2.0)  # type: ignore[operator, union-attr]
        network.refresh()
        assert not torch.equal(network.outputs(batch).logits, before)


class TestEndOfTraining:
    def test_leaves_the_model_as_it_was_trained_and_gives_the_room_back(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        batch = mixed_batch(dataset, compute)
        for network in both_forms(model, compute):
            network.begin_training(0.01, np.unique(dataset.train.ids), None)
            torch.nn.functional.cross_entropy(network.training_outputs(batch, 0).logits, batch.labels).backward()
            network.step(1e-2)
            before = network.outputs(batch).logits
            network.end_training()
            assert torch.equal(network.outputs(batch).logits, before)
            held = [
                *network.model.parameters(),
                *(network.weights.masters if isinstance(network, PackedNetwork) else []),
            ]
            assert all(parameter.grad is None for parameter in held)
            network.begin_training(0.01, None, None)
            torch.nn.functional.cross_entropy(network.training_outputs(batch, 1).logits, batch.labels).backward()
            network.step(1e-2)
            assert not torch.equal(network.outputs(batch).logits, before)


class TestOptimizerState:
    def test_goes_into_a_checkpoint_and_back(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        batch = mixed_batch(dataset, compute)

        def step(network: Network, seed: int) -> None:
            torch.nn.functional.cross_entropy(network.training_outputs(batch, seed).logits, batch.labels).backward()
            network.step(1e-3)

        rows = np.unique(dataset.train.ids)
        first = build_network(model, compute)
        first.begin_training(0.01, rows, None)
        step(first, 0)
        second = build_network(copy.deepcopy(model), compute)
        second.begin_training(0.01, rows, None)
        second.load_optimizer_state(first.optimizer_state())
        step(first, 1)
        step(second, 1)
        weights = second.model.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())


class TestDropoutMasks:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("chance", [0.1, 0.5])
    def test_drop_the_share_that_is_asked_for(self, dtype: torch.dtype, chance: float) -> None:
        values = torch.ones(1000, 333, dtype=dtype)
        kept = keep(values, BitMasks(7).draw((1000, 333), chance, dtype))
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert abs(1 - kept.float().mean().item() - chance) < 0.004  # five standard deviations

    def test_are_those_of_their_seed(self) -> None:
        first, again, other = (BitMasks(seed).draw((64, 64), 0.1, torch.float32) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_differ_from_draw_to_draw(self) -> None:
        masks = BitMasks(1)
        assert not torch.equal(masks.draw((64, 64), 0.1, torch.float32), masks.draw((64, 64), 0.1, torch.float32))

    def test_change_what_is_trained_on_and_leave_evaluation_alone(self, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        network = build_network(model, compute)
        batch = mixed_batch(dataset, compute)
        trained = [network.training_outputs(batch, seed).logits.detach() for seed in (1, 1, 2)]
        assert torch.equal(trained[0], trained[1])
        assert not torch.equal(trained[0], trained[2])
        assert torch.equal(network.outputs(batch).logits, network.outputs(batch).logits)

    def test_keep_the_mean_of_what_they_drop_from(self, tmp_path: Path) -> None:
        """Harm: a scale that is forgotten, so that training sees smaller numbers than evaluation."""
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        network = build_network(model, compute)
        batch = mixed_batch(dataset, compute)
        plain = PlainNetwork(model, compute)
        mean, wanted = (
            torch.stack([form.training_outputs(batch, seed).logits.detach() for seed in range(400)]).mean(0)
            for form in (network, plain)
        )
        assert (mean - wanted).abs().mean() < 0.1 * wanted.abs().mean()


class TestFlatWeights:
    def test_refuses_to_read_as_one_what_lies_apart(self) -> None:
        weights = FlatWeights([{name: torch.nn.Parameter(torch.ones(3, 5))} for name in "ab"], torch.float32)
        with pytest.raises(ValueError, match="a, b do not lie side by side"):
            weights.read("a", "b")
