"""On a GPU: graphs and the GPU's own attention kernel change how fast a step is, and nothing else."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fixtures.tiny_models import FAMILIES
from tests.worker.distill.test_networks import mixed_batch, without_dropout
from tests.worker.distill.test_vectors import load
from worker.distill.batches import Batch, collate
from worker.distill.data import Dataset
from worker.distill.device import Compute
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.packed import cuda_network, linear
from worker.distill.packed.cuda_network import CudaNetwork
from worker.distill.packed.graphs import Recorder, TrainingGraph
from worker.distill.packed.layout import Packing, grid_length

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def some_batches(dataset: Dataset, compute: Compute) -> list[Batch]:
    """Of several shapes, each of which comes again; the last ones have synthetic rows."""
    order = np.argsort(dataset.train.lengths, kind="stable")
    thirds = [np.sort(order[start : start + 16]) for start in (0, 40, 120)]
    batches = [collate(rows, dataset.train, compute.device, lists_words=True) for rows in thirds]
    return [*batches, mixed_batch(dataset, compute)] * 3


def of_one_shape(dataset: Dataset, compute: Compute) -> list[Batch]:
    """The same rows in other orders: a graph is replayed with a content that it was not recorded with."""
    rows = np.argsort(dataset.train.lengths, kind="stable")[::9][:16]
    orders = (rows, rows[::-1], np.roll(rows, 5), np.roll(rows, 11))
    batches = [collate(order, dataset.train, compute.device, lists_words=True) for order in orders]
    assert not torch.equal(batches[0].mask, batches[1].mask)
    return batches * 2


def full_and_almost(dataset: Dataset, compute: Compute) -> list[Batch]:
    """Of as many tokens once they are filled up, and one of them with padding in its grid."""
    rows, length = 16, grid_length(1, "cuda")
    draw = torch.Generator().manual_seed(0)
    ids = torch.from_numpy(np.unique(dataset.train.ids))[torch.randint(5, 25, (rows, length), generator=draw)]
    present = torch.ones(rows, length, dtype=torch.bool)
    almost = present.clone()
    almost[-1, -1] = False
    sample = collate(np.arange(rows), dataset.train, compute.device)
    batches = [
        replace(
            sample,
            ids=ids.long().to(compute.device),
            mask=mask.to(compute.device),
            places=mask.flatten().nonzero().flatten().to(compute.device),
            segments=torch.zeros(rows, length, dtype=torch.long, device=compute.device),
            is_special=torch.zeros_like(present).to(compute.device),
        )
        for mask in (present, almost)
    ]
    assert [Packing.of(batch)[0].is_full for batch in batches] == [True, False]
    assert len({len(Packing.of(batch)[1]) for batch in batches}) == 1
    return batches * 3


def train(
    network: Network, dataset: Dataset, compute: Compute, *, trains_words: bool, batches: list[Batch] | None = None
) -> list[float]:
    network.begin_training(0.01, np.unique(dataset.train.ids) if trains_words else None, None)
    losses = []
    for number, batch in enumerate(batches or some_batches(dataset, compute)):
        outputs = network.training_outputs(batch, number)
        loss = torch.nn.functional.cross_entropy(outputs.logits, batch.labels) + outputs.features.square().mean()
        loss.backward()
        network.step(3e-3)
        losses.append(loss.item())
    return losses


def state_of(network: Network) -> dict[str, torch.Tensor]:
    return network.trained_weights() | network.optimizer_state()


def differing(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in wanted.items() if not torch.equal(value, found[name])]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
class TestGraphs:
    @pytest.mark.parametrize("trains_words", [False, True])
    @pytest.mark.parametrize("is_deterministic", [False, True])
    def test_give_the_bits_of_the_calls_they_recorded(
        self,
        family: str,
        precision: str,
        trains_words: bool,
        is_deterministic: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs=True)
        torch.use_deterministic_algorithms(is_deterministic)
        compute = replace(compute, precision=precision)
        found = []
        for recorded_at in (10**9, 2):
            monkeypatch.setattr(cuda_network, "_RECORDED_AT_MEETING", recorded_at)
            network = build_network(copy.deepcopy(model), compute)
            assert isinstance(network, CudaNetwork)
            losses = train(network, dataset, compute, trains_words=trains_words)
            assert bool(network._graphs) == (recorded_at == 2)
            found.append((losses, state_of(network)))
        assert found[0][0] == found[1][0]
        assert found[0][0][-4:] < found[0][0][:4], "what does not learn says nothing of its gradients"
        assert not differing(found[1][1], found[0][1])

    @pytest.mark.parametrize(("make", "graphs"), [(of_one_shape, 1), (full_and_almost, 2)])
    def test_read_the_content_of_each_batch(
        self,
        family: str,
        precision: str,
        make: Callable[[Dataset, Compute], list[Batch]],
        graphs: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Harm: lengths, rows or padding of the batch that was recorded, for all that come after it."""
        model, dataset, compute = load(tmp_path, family, has_pairs=False)
        compute = replace(compute, precision=precision)
        batches = make(dataset, compute)
        found = []
        for recorded_at in (10**9, 2):
            monkeypatch.setattr(cuda_network, "_RECORDED_AT_MEETING", recorded_at)
            network = build_network(copy.deepcopy(model), compute)
            assert isinstance(network, CudaNetwork)
            losses = train(network, dataset, compute, trains_words=False, batches=batches)
            assert len(network._graphs) == (graphs if recorded_at == 2 else 0)
            found.append((losses, state_of(network)))
        assert found[0][0] == found[1][0]
        assert not differing(found[1][1], found[0][1])

    @pytest.mark.parametrize("trains_words", [False, True])
    def test_of_the_optimisers_step_give_the_bits_of_its_calls(
        self, family: str, precision: str, trains_words: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a resume, whose first step is not a replay, ends with other bits."""
        model, dataset, compute = load(tmp_path, family, has_pairs=True)
        compute = replace(compute, precision=precision)
        monkeypatch.setattr(cuda_network, "_RECORDED_AT_MEETING", 10**9)
        found = []
        for is_recorded in (False, True):
            if not is_recorded:
                monkeypatch.setattr(Recorder, "record", lambda _, work: SimpleNamespace(replay=work))
            network = build_network(copy.deepcopy(model), compute)
            assert isinstance(network, CudaNetwork)
            losses = train(network, dataset, compute, trains_words=trains_words)
            assert network._step is not None
            assert isinstance(network._step._graph, torch.cuda.CUDAGraph) == is_recorded
            found.append((losses, state_of(network)))
            monkeypatch.undo()
            monkeypatch.setattr(cuda_network, "_RECORDED_AT_MEETING", 10**9)
        assert found[0][0] == found[1][0]
        assert not differing(found[1][1], found[0][1])


def test_who_only_asks_records_nothing(tmp_path: Path) -> None:
    """Harm: what a recording makes for its backward pass, and every later one reads, is never computed."""
    model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
    network = build_network(model, compute)
    assert isinstance(network, CudaNetwork)
    batch = mixed_batch(dataset, compute)
    for seed in range(3):
        network.training_outputs(batch, seed)
    assert not network._graphs


class TestMemory:
    """Graphs are given up where they would cost a job that fits without them."""

    @pytest.mark.parametrize("fails_at", [1, 3])
    def test_that_a_recording_does_not_get(
        self, fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, dataset, compute = load(tmp_path, "bert", has_pairs=True)
        plain, _ = trained(model, dataset, compute, monkeypatch, recorded_at=10**9)
        recorded: list[int] = []

        class Failing(TrainingGraph):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                recorded.append(len(recorded) + 1)
                if recorded[-1] == fails_at:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(cuda_network, "TrainingGraph", Failing)
        losses, network = trained(model, dataset, compute, monkeypatch, recorded_at=2)
        assert losses == plain
        assert len(recorded) == fails_at, "it goes on without"
        assert not network._graphs

    @pytest.mark.parametrize(
        ("module", "name"), [(torch.nn.functional, "gelu"), (linear, "_multiply")], ids=["forward", "backward"]
    )
    def test_that_runs_out_in_the_middle_of_a_recording(
        self, module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pass that follows without a graph draws the dropout that it would have drawn, and so does each later."""
        model, dataset, compute = load(tmp_path, "bert", has_pairs=True)
        plain, _ = trained(model, dataset, compute, monkeypatch, recorded_at=10**9)
        call = getattr(module, name)

        def fails_while_recording(*given: Any, **named: Any) -> Any:
            if torch.cuda.is_current_stream_capturing():
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return call(*given, **named)

        monkeypatch.setattr(module, name, fails_while_recording)
        losses, network = trained(model, dataset, compute, monkeypatch, recorded_at=2)
        assert losses == plain
        assert not network._graphs
        assert network._step is not None
        assert network._step._graph is not None

    @pytest.mark.parametrize("kept", [0, 1])
    def test_that_would_not_do_for_a_shape_without_a_graph(
        self, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where each graph adds little to what those before it hold."""
        model, dataset, compute = load(tmp_path, "bert", has_pairs=True)
        plain, _ = trained(model, dataset, compute, monkeypatch, recorded_at=10**9)
        free = iter([*[2**34] * kept, *[1] * 99])
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (next(free), 2**34))
        losses, network = trained(model, dataset, compute, monkeypatch, recorded_at=2)
        assert losses == plain
        assert not network._graphs


def trained(
    model: torch.nn.Module, dataset: Dataset, compute: Compute, monkeypatch: pytest.MonkeyPatch, *, recorded_at: int
) -> tuple[list[float], CudaNetwork]:
    """The losses, and the network after its training, whose graphs stay until the next one."""
    monkeypatch.setattr(cuda_network, "_RECORDED_AT_MEETING", recorded_at)
    network = build_network(copy.deepcopy(model), compute)
    assert isinstance(network, CudaNetwork)
    return train(network, dataset, compute, trains_words=True), network


class TestFlashAttention:
    @pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
    def test_gives_the_gradients_of_the_grid(self, family: str, tmp_path: Path) -> None:
        model, dataset, compute = load(tmp_path, family, has_pairs=True)
        batch = mixed_batch(dataset, compute)
        gradients, logits = [], []
        for precision, has_flash in (("fp32", False), ("bf16", False), ("bf16", True)):
            network = build_network(without_dropout(copy.deepcopy(model)), replace(compute, precision=precision))
            assert isinstance(network, CudaNetwork)
            if has_flash and not network._has_flash:
                pytest.skip("needs a GPU with flash attention")
            network._has_flash = has_flash
            network.begin_training(0.0, None, None)
            outputs = network.training_outputs(batch, 0)
            torch.nn.functional.cross_entropy(outputs.logits, batch.labels).backward()
            network.weights.gather_gradients()
            gradients.append([master.grad.clone() for master in network.weights.masters if master.grad is not None])
            logits.append(network.outputs(batch).logits)
        exact, grid, flash = logits
        assert (flash - exact).norm() < 3 * (grid - exact).norm() + 1e-3 * exact.norm()
        for exact, grid, flash in zip(*gradients, strict=True):
            assert (flash - exact).norm() < 3 * (grid - exact).norm() < 0.3 * exact.norm()

    def test_drops_out_the_share_that_is_asked_for(self, tmp_path: Path) -> None:
        """The mean over many masks is what nothing is dropped from."""
        model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
        network = build_network(without_dropout(model), replace(compute, precision="bf16"))
        assert isinstance(network, CudaNetwork)
        if not network._has_flash:
            pytest.skip("needs a GPU with flash attention")
        batch = mixed_batch(dataset, compute)
        tokens = network._look_up(batch, is_training=False)
        projected = torch.randn(len(tokens.vectors), 96, device=compute.device, dtype=torch.bfloat16)
        with torch.no_grad():
            whole = network._attention(tokens.packing, None)(projected).float()
            network._attention_chance = 0.25
            attend = network._attention(tokens.packing, network._masks)
            dropped = torch.stack([attend(projected).float() for _ in range(600)])
        real = slice(0, tokens.packing.real_tokens)
        assert (dropped.mean(0) - whole)[real].norm() < 0.05 * whole[real].norm()
        assert dropped.std(0)[real].mean() > 0.1 * whole[real].abs().mean()
