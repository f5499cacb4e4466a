"""On what a run computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.distill.tiny_runs import make_run
from worker.distill.config import JobConfig
from worker.distill.device import Compute, choose_compute, differing, environment
from worker.distill.errors import NoDevice
from worker.distill.processor import Processor

FAST_IN_BF16 = Processor("a processor", "AuthenticAMD", "25", "17", ("avx2", "avx512_bf16"))
SLOW_IN_BF16 = Processor("a processor", "GenuineIntel", "6", "207", ("avx2", "avx512_bf16"))


def device(folder: Path) -> str:
    job = JobConfig.load(make_run(folder / "run") / "job.json")
    return choose_compute(job.training, threads=1).device.type


class TestDevice:
    @pytest.mark.parametrize("wanted", [None, "auto", "cpu"])
    def test_is_the_processor_where_there_is_no_gpu(
        self, wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.delenv("STILLHOUSE_ENGINE_DEVICE", raising=False)
        if wanted is not None:
            monkeypatch.setenv("STILLHOUSE_ENGINE_DEVICE", wanted)
        assert device(tmp_path) == "cpu"

    def test_is_the_processor_beside_a_gpu_where_that_is_wanted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setenv("STILLHOUSE_ENGINE_DEVICE", "cpu")
        assert device(tmp_path) == "cpu"

    def test_is_no_other_than_the_gpu_that_is_wanted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("STILLHOUSE_ENGINE_DEVICE", "cuda")
        with pytest.raises(NoDevice, match="STILLHOUSE_ENGINE_DEVICE is cuda"):
            device(tmp_path)

    def test_is_no_gpu_that_is_counted_and_does_not_compute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a machine whose GPU another process holds, or that is too old for torch, fails job after job."""

        def busy(*_: object, **__: object) -> None:
            raise torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCompile with")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch, "ones", busy)
        monkeypatch.setenv("STILLHOUSE_ENGINE_DEVICE", "cuda")
        with pytest.raises(NoDevice, match=r"does not compute \(CUDA error: .*busy or unavailable\)"):
            device(tmp_path)


class TestPrecision:
    """`precision: auto` on processors that are made up here; what each multiplies fastest is in test_processor.py."""

    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_ENGINE_DEVICE", "cpu")

    @staticmethod
    def on(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.distill.device.Processor.here", lambda: processor)

    @staticmethod
    def job(folder: Path, precision: str) -> JobConfig:
        made = JobConfig.load(make_run(folder / "run") / "job.json")
        return replace(made, training=replace(made.training, precision=precision))

    def test_is_what_is_fast_here_unless_the_job_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        training = self.job(tmp_path, "auto").training
        for processor, fast in ((FAST_IN_BF16, "bf16"), (SLOW_IN_BF16, "fp32")):
            self.on(processor, monkeypatch)
            assert choose_compute(training, 1).precision == fast
            for said in ("bf16", "fp32"):
                assert choose_compute(replace(training, precision=said), 1).precision == said

    def test_of_a_run_under_way_stays_on_its_own_hardware(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a release that chooses otherwise ends every run under way with other bits, and makes its teacher's pass
        anew."""
        training = self.job(tmp_path, "auto").training
        self.on(SLOW_IN_BF16, monkeypatch)
        began = environment(choose_compute(replace(training, precision="bf16"), 1))
        assert choose_compute(training, 1, began).precision == "bf16"
        assert choose_compute(replace(training, precision="fp32"), 1, began).precision == "fp32"
        # Elsewhere it will not end with the same bits anyway, so it takes what is fast there.
        for other in (replace(SLOW_IN_BF16, name="another one"), replace(SLOW_IN_BF16, instructions=("avx2",))):
            self.on(other, monkeypatch)
            assert choose_compute(training, 1, began).precision == "fp32"
        # A release that recorded no more than the name went by that.
        del began["processor_kind"]
        assert choose_compute(training, 1, began).precision == "bf16"


class TestEnvironment:
    @pytest.fixture
    def beside_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
        monkeypatch.setattr("worker.distill.device.Processor.here", lambda: FAST_IN_BF16)
        gpu = torch.device("cuda", 0)
        return environment(Compute(gpu, "bf16", threads=2, attention="sdpa", is_deterministic=True))

    def test_another_processor_beside_the_same_gpu_differs(self, beside_a_gpu: dict[str, Any]) -> None:
        """Harm: the map and the directions that a method begins with are laid again on another processor, to other
        bits, and the resume says that it is exact."""
        assert beside_a_gpu["device"] == "a GPU"
        assert differing(beside_a_gpu, beside_a_gpu) == []
        assert differing(beside_a_gpu | {"processor": "another one"}, beside_a_gpu) == ["processor"]

    def test_another_processor_of_the_same_name_differs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: virtual machines bear one name for processors on which libraries take quite different kernels; a run
        goes on with other bits on one of those, and says that it is exact."""
        monkeypatch.setattr("worker.distill.device.Processor.here", lambda: FAST_IN_BF16)
        compute = Compute(torch.device("cpu"), "bf16", threads=2, attention="eager", is_deterministic=True)
        began = environment(compute)
        for other in (replace(FAST_IN_BF16, model="1"), replace(FAST_IN_BF16, instructions=("avx2",))):
            monkeypatch.setattr("worker.distill.device.Processor.here", lambda other=other: other)
            assert differing(began, environment(compute)) == ["processor_kind"]

    def test_another_version_of_a_library_differs(self, beside_a_gpu: dict[str, Any]) -> None:
        for name in ("torch", "transformers", "tokenizers", "numpy", "scipy", "umap-learn", "numba"):
            libraries = beside_a_gpu["libraries"] | {name: "0.1"}
            assert differing(beside_a_gpu | {"libraries": libraries}, beside_a_gpu) == ["libraries"]

    def test_what_the_release_that_began_the_run_did_not_record_differs_from_nothing(
        self, beside_a_gpu: dict[str, Any]
    ) -> None:
        """Harm: an upgrade after which every job under way is told to be inexact."""
        libraries = {name: beside_a_gpu["libraries"][name] for name in ("torch", "transformers", "numpy")}
        before = beside_a_gpu | {"libraries": libraries}
        del before["processor"], before["processor_kind"]
        assert differing(before, beside_a_gpu) == []
        assert differing(before, beside_a_gpu | {"methods": {"lelp": 2}}) == ["methods"]
