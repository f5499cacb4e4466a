"""On what a run computes."""

from pathlib import Path

import pytest
import torch

from tests.worker.distill.tiny_runs import make_run
from worker.distill.config import JobConfig
from worker.distill.device import choose_compute
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
