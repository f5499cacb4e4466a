import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from worker.distill.evaluate import measure_latencies, measure_lead, measure_quality


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities, np.float32))


class Clock:
    """Goes on only while a model computes, and for a while everything takes three times as long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slow: tuple[float, float] = (0.0, 0.0)) -> None:
        self.now = 0.0
        self.slow_from, self.slow_until = slow
        monkeypatch.setattr("worker.distill.evaluate.time.perf_counter", lambda: self.now)

    def work(self, seconds: float) -> None:
        is_slow = self.slow_from - 1e-9 < self.now < self.slow_until - 1e-9
        self.now += 3 * seconds if is_slow else seconds


class Answering(torch.nn.Module):
    """Takes texts as they are, and says nothing, for some seconds each time."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clock, self.seconds = clock, itertools.cycle(seconds)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        self.clock.work(next(self.seconds))
        return SimpleNamespace(logits=self.weight * input_ids)


def latencies(*models: Answering, texts: int, check_stop: Callable[[], None] = lambda: None) -> list[dict[str, float]]:
    def tokenizer(*_: Any, **__: Any) -> BatchEncoding:
        return BatchEncoding({"input_ids": torch.ones(1)})

    return measure_latencies(models, tokenizer, [("a",)] * texts, 8, check_stop)


class TestLatencies:
    def test_are_none_that_was_not_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: of few texts a slowest twentieth that is slower than the slowest of them."""
        [told] = latencies(Answering(Clock(monkeypatch), *[1.0] * 5, 0.005, 0.0052, 0.009), texts=3)
        assert told["p50"] == pytest.approx(5.2)
        assert 5.2 < told["p95"] <= 9.0

    @pytest.mark.parametrize("slow", [(0.0, 0.45), (0.15, 0.6), (0.45, 0.9)])
    def test_are_alike_of_models_alike_whatever_else_the_machine_did(
        self, slow: tuple[float, float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: of two students of one shape that is taken for the slower which was timed at a bad moment."""
        clock = Clock(monkeypatch, slow=slow)
        told = latencies(Answering(clock, 0.01), Answering(clock, 0.01), texts=10)
        assert clock.now > 2 * 2 * 0.15, "no moment was bad"
        assert told == [{"p50": 10.0, "p95": 10.0}] * 2

    def test_may_be_left_at_any_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: the end of a job with a slow model on a slow machine holds up whoever pauses it."""
        clock = Clock(monkeypatch)
        began: list[float] = []
        latencies(*[Answering(clock, 1.0)] * 2, texts=10, check_stop=lambda: began.append(clock.now))
        assert began == pytest.approx([0, 15, 30, 45])


class TestLead:
    def test_by_hand(self) -> None:
        """Of 100 rows the one alone gets 10 right, the other alone 4."""
        is_right, other = np.zeros(100, bool), np.zeros(100, bool)
        is_right[:60] = other[10:64] = True
        lead = measure_lead(is_right, other)
        assert lead.accuracy == pytest.approx(0.06)
        half = 1.96 * np.sqrt(10.5 + 4.5 - 6**2 / 102) / 102
        assert (lead.low, lead.high) == (pytest.approx(6 / 102 - half), pytest.approx(6 / 102 + half))

    def test_of_two_that_answer_alike_is_not_certain(self) -> None:
        """Harm: two models that are alike on twenty rows are said to be alike on all."""
        lead = measure_lead(np.ones(20, bool), np.ones(20, bool))
        assert lead.accuracy == 0
        assert lead.low == -lead.high < -0.05

    def test_stays_within_what_there_is(self) -> None:
        lead = measure_lead(np.ones(3, bool), np.zeros(3, bool))
        assert (lead.accuracy, lead.high) == (1, 1)
        assert 0 < lead.low < 1

    def test_holds_the_truth_nineteen_times_of_twenty(self) -> None:
        """On 200 rows of which the one alone gets 8 % right, the other alone 5 %."""
        draws = np.random.default_rng(0).random((2_000, 200))
        leads = [measure_lead(row < 0.08, (row > 0.5) & (row < 0.55)) for row in draws]
        held = np.mean([lead.low <= 0.03 <= lead.high for lead in leads])
        assert 0.94 <= held <= 0.97


class TestQuality:
    def test_by_hand(self) -> None:
        logits = logits_of([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
        quality = measure_quality(logits, np.array([0, 1, 1, 1]))
        assert quality.accuracy == 0.75
        assert quality.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
        assert quality.loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean(), rel=1e-5)

    def test_f1_is_over_the_same_classes_whatever_a_model_answers(self) -> None:
        """Harm: beside a teacher that answers a class which no row has, a student that is right as often looks better:
        its mean is of fewer classes."""
        labels = np.array([0, 0, 1, 1])
        strays = measure_quality(
            logits_of([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]), labels
        )
        assert strays.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
        # Nor does a class count less that a model never answers.
        blind = measure_quality(logits_of([[0.8, 0.1, 0.1]] * 4), labels)
        assert blind.macro_f1 == pytest.approx((2 / 3 + 0) / 2)

    def test_of_many_classes_is_computed_in_parts_to_the_same_bits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: what has trained for hours runs out of memory when it is measured, and so does each retry."""
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(50, 7)).astype(np.float32)
        labels = generator.integers(7, size=50)
        whole = measure_quality(logits, labels)
        monkeypatch.setattr("worker.distill.rows._LOGITS_AT_ONCE", 40)
        assert measure_quality(logits, labels) == whole
        most = []
        exp = np.exp
        monkeypatch.setattr("worker.distill.evaluate.np.exp", lambda values: most.append(values.size) or exp(values))
        measure_quality(logits, labels)
        assert max(most) <= 50


class TestCalibrationError:
    def test_is_the_gap_between_confidence_and_accuracy_in_each_bin(self) -> None:
        # Bins of a fifteenth: two rows at 0.95, one of them right; two at 0.75, both right.
        logits = logits_of([[0.95, 0.05], [0.95, 0.05], [0.25, 0.75], [0.25, 0.75]])
        quality = measure_quality(logits, np.array([0, 1, 1, 1]))
        assert quality.calibration_error == pytest.approx((2 * 0.45 + 2 * 0.25) / 4, rel=1e-4)

    def test_confidence_that_is_borne_out_is_no_error(self) -> None:
        labels = np.array([0] * 9 + [1])
        quality = measure_quality(logits_of([[0.9, 0.1]] * 10), labels)
        assert quality.calibration_error == pytest.approx(0.0, abs=1e-6)

    def test_a_model_that_is_sure_and_right_is_calibrated(self) -> None:
        quality = measure_quality(np.array([[50.0, 0.0], [0.0, 50.0]], np.float32), np.array([0, 1]))
        assert quality.calibration_error == pytest.approx(0.0, abs=1e-6)
