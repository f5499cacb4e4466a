"""On what a run computes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.distill.tiny_runs import make_run
from worker.distill.config import JobConfig
from worker.distill.device import Compute, choose_compute, differing, environment
from worker.distill.errors import NoDevice


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


class TestEnvironment:
    @pytest.fixture
    def beside_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
        monkeypatch.setattr("worker.distill.device._processor_name", lambda: "a processor")
        gpu = torch.device("cuda", 0)
        return environment(Compute(gpu, "bf16", threads=2, attention="sdpa", is_deterministic=True))

    def test_another_processor_beside_the_same_gpu_differs(self, beside_a_gpu: dict[str, Any]) -> None:
        """Harm: the map and the directions that a method begins with are laid again on another processor, to other
        bits, and the resume says that it is exact."""
        assert beside_a_gpu["device"] == "a GPU"
        assert differing(beside_a_gpu, beside_a_gpu) == []
        assert differing(beside_a_gpu | {"processor": "another one"}, beside_a_gpu) == ["processor"]

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
        del before["processor"]
        assert differing(before, beside_a_gpu) == []
        assert differing(before, beside_a_gpu | {"methods": {"lelp": 2}}) == ["methods"]
