from pathlib import Path

import pytest

from tests.worker.distill.test_vectors import load
from worker.distill.errors import NanLoss, Stopped
from worker.distill.evaluate import predict_logits
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.results import Measurer
from worker.distill.teacher import load_tokenizer

TEACHER = {"test": {"accuracy": 1.0}}


def stop() -> None:
    raise Stopped


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Network, Measurer]:
    model, dataset, compute = load(tmp_path, "bert", has_pairs=False)
    network = build_network(model, compute)
    logits = {name: predict_logits(network, split, compute.device) for name, split in dataset.splits.items()}
    tokenizer = load_tokenizer(tmp_path / "run/teacher")
    return network, Measurer(dataset, logits, compute.device, tokenizer, 24, lambda: None)


class TestMeasureStudent:
    def test_one_whose_logits_are_not_finite_is_named_as_such(self, measured: tuple[Network, Measurer]) -> None:
        """Harm: at the end of all training an internal error that nobody can act on."""
        network, measurer = measured
        weights = network.trained_weights()
        weights["classifier.bias"].fill_(float("inf"))
        with pytest.raises(NanLoss, match=r"validation rows.*lower the learning rate"):
            measurer.measure_student(network, weights, TEACHER)

    def test_can_be_stopped_between_batches(self, measured: tuple[Network, Measurer]) -> None:
        network, measurer = measured
        measurer.check_stop = stop
        with pytest.raises(Stopped):
            measurer.measure_student(network, network.trained_weights(), TEACHER)
