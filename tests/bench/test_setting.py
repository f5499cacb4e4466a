import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.datasets import Dataset
from bench.flops import EncoderShape
from bench.hyperparameters import Hyperparameters
from bench.models import Models
from bench.setting import Setting, measure_missing


@dataclass(frozen=True)
class Plan:
    dataset: str
    seed: int
    rows: int | None = None


def describe(plan: Plan, _: Plan) -> str:
    return str(plan)


class Bench:
    """Cells that are measured by being noted down."""

    def __init__(self, at_once: int) -> None:
        models = Models(Path("teacher"), "", Path("student"), "", EncoderShape(3, 8, 32, 2))
        setting = Setting(models, Hyperparameters(), 3, "fp32", 1, Path("cache"), at_once=at_once)
        dataset = Dataset("a", Path("a"), 32, "", 2, {}, "")
        self.prepared = {("a", None): (dataset, setting), ("b", None): (dataset, setting)}
        self.done: list[Plan] = []
        self.together = threading.Barrier(at_once)
        self.under_way = threading.Semaphore(at_once)

    def find(self, plan: Plan, dataset: Dataset, setting: Setting) -> Plan | None:  # noqa: ARG002
        return plan if plan in self.done else None

    def measure(self, plan: Plan, dataset: Dataset, setting: Setting) -> Plan:  # noqa: ARG002
        assert self.under_way.acquire(blocking=False), "more are under way than may be"
        self.together.wait(60)  # raises where fewer are
        self.done.append(plan)
        self.under_way.release()
        return plan

    def run(self, plans: list[Plan], minutes: float | None = None) -> None:
        measure_missing(plans, self.prepared, self.find, self.measure, describe, minutes)


PLANS = [Plan(dataset, seed) for seed in (1, 2, 3) for dataset in ("a", "b")]


class TestMeasureMissing:
    def test_goes_in_order_and_leaves_out_what_is_there(self) -> None:
        bench = Bench(1)
        bench.done.append(PLANS[1])
        bench.run(PLANS)
        assert bench.done == [PLANS[1], PLANS[0], *PLANS[2:]]

    def test_measures_so_many_at_once(self) -> None:
        bench = Bench(2)
        bench.run(PLANS)
        assert sorted(bench.done, key=str) == sorted(PLANS, key=str)

    def test_begins_none_after_its_time_and_says_so_if_one_is_left(self, capsys: pytest.CaptureFixture[str]) -> None:
        bench = Bench(1)
        bench.run(PLANS, minutes=0)
        assert bench.done == []
        assert "run it again" in capsys.readouterr().out
        bench.done = [*PLANS]
        bench.run(PLANS, minutes=0)
        assert "run it again" not in capsys.readouterr().out

    def test_an_error_in_one_ends_it(self) -> None:
        bench = Bench(1)

        def fail(plan: Plan, *_: Any) -> Plan:
            bench.done.append(plan)
            raise RuntimeError("the engine ended with status 1")

        with pytest.raises(RuntimeError, match="status 1"):
            measure_missing(PLANS, bench.prepared, bench.find, fail, describe, None)
        assert bench.done == PLANS[:1]
