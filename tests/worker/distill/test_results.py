from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worker.distill.test_vectors import load
from worker.distill.errors import NanLoss, Stopped
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.predict import predict_logits
from worker.distill.results import Measured, Measurer
from worker.distill.teacher import load_tokenizer

NEVER_RIGHT = Measured({}, np.zeros(10, bool))


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
    @pytest.mark.parametrize("reported", ["test", "validation"])
    def test_retention_and_agreement_of_one_that_knows_one_class(
        self, reported: str, measured: tuple[Network, Measurer]
    ) -> None:
        """Harm: a student is chosen by numbers of another model, or of another split."""
        network, measurer = measured
        splits, logits = measurer.dataset.splits, measurer.teacher_logits
        if reported == "validation":
            splits = {name: split for name, split in splits.items() if name != "test"}
            measurer = Measurer(
                replace(measurer.dataset, splits=splits), logits, measurer.device, measurer.tokenizer, 24, lambda: None
            )
        says_first = {name: float((said.argmax(1) == 0).mean()) for name, said in logits.items()}
        is_right = {name: float((logits[name].argmax(1) == split.labels).mean()) for name, split in splits.items()}
        of_teacher = measurer.measure_teacher(network)
        weights = network.trained_weights()
        weights["classifier.bias"][0] += 100
        of_student = measurer.measure_student(network, weights, of_teacher)
        teacher, student = of_teacher.summary, of_student.summary
        # The classes are alike in number.
        assert student[reported]["accuracy"] == pytest.approx(1 / 3)
        assert student["agreement"] == pytest.approx(says_first[reported])
        assert student["retention"] == pytest.approx(1 / 3 / is_right[reported])
        assert (teacher["agreement"], teacher["retention"]) == (1.0, 1.0)
        lead = of_student.ahead_of({"teacher": of_teacher})["teacher"]
        assert lead["accuracy"] == pytest.approx(1 / 3 - is_right[reported])
        assert lead["low"] < lead["accuracy"] < lead["high"]
        assert says_first["test"] != says_first["validation"], "the splits would not be told apart"
        assert len({1 / 3, says_first[reported], is_right[reported]}) == 3

    def test_of_a_teacher_that_is_never_right_nothing_is_retained(self, measured: tuple[Network, Measurer]) -> None:
        network, measurer = measured
        student = measurer.measure_student(network, network.trained_weights(), NEVER_RIGHT)
        assert student.summary["retention"] is None

    def test_one_whose_logits_are_not_finite_is_named_as_such(self, measured: tuple[Network, Measurer]) -> None:
        """Harm: at the end of all training an internal error that nobody can act on."""
        network, measurer = measured
        weights = network.trained_weights()
        weights["classifier.bias"].fill_(float("inf"))
        with pytest.raises(NanLoss, match=r"validation rows.*lower the learning rate"):
            measurer.measure_student(network, weights, NEVER_RIGHT)

    def test_can_be_stopped_between_batches(self, measured: tuple[Network, Measurer]) -> None:
        network, measurer = measured
        measurer.check_stop = stop
        with pytest.raises(Stopped):
            measurer.measure_student(network, network.trained_weights(), NEVER_RIGHT)
