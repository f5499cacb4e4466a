"""The fit of the map as a process of its own; what it computes is in test_synthesis.py."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.distill.errors import OutOfMemory, Stopped
from worker.distill.projection import ProjectionFit, fit_coordinates


def killed_fit(folder: Path) -> ProjectionFit:
    np.save(folder / "vectors.npy", np.eye(4, dtype=np.float32))
    fit = ProjectionFit(folder / "vectors.npy", folder)
    fit._process.kill()
    fit._process.wait()
    return fit


class TestFit:
    def test_is_computed_by_one_thread_of_every_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: another map where a run goes on on a machine of other cores, under the name of an exact resume."""
        told: dict[str, str] = {}

        class Popen(subprocess.Popen[bytes]):
            def __init__(self, *given: Any, env: dict[str, str], **named: Any) -> None:
                told.update(env)
                super().__init__(*given, env=env, **named)

        monkeypatch.setattr("worker.distill.projection.subprocess.Popen", Popen)
        variables = [f"{library}_NUM_THREADS" for library in ("OMP", "NUMBA", "OPENBLAS", "MKL")]
        for variable in variables:
            monkeypatch.setenv(variable, "2")
        np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))
        assert ProjectionFit(tmp_path / "vectors.npy", tmp_path).result(lambda: None).shape == (4, 2)
        assert [told[variable] for variable in variables] == ["1"] * 4
        assert told["PATH"] == os.environ["PATH"]

    def test_lays_its_map_whoever_asks_it_to_leave(self, tmp_path: Path) -> None:
        """Harm: where every process of a machine is told to leave, the job has failed instead of waiting."""
        np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))
        fit = ProjectionFit(tmp_path / "vectors.npy", tmp_path)
        status = Path(f"/proc/{fit._process.pid}/status")
        while not int(status.read_text().partition("SigIgn:")[2].split()[0], 16) & 1 << (signal.SIGTERM - 1):
            time.sleep(0.01)
        fit._process.terminate()
        assert fit.result(lambda: None).shape == (4, 2)

    def test_killed_by_the_system_is_a_want_of_memory(self, tmp_path: Path) -> None:
        with pytest.raises(OutOfMemory, match="more memory"):
            killed_fit(tmp_path).result(lambda: None)

    def test_killed_together_with_a_run_that_is_told_to_stop_is_no_failure(self, tmp_path: Path) -> None:
        def stop() -> None:
            raise Stopped

        with pytest.raises(Stopped):
            killed_fit(tmp_path).result(stop)

    def test_keeps_what_it_has_compiled_for_the_processes_to_come(self) -> None:
        """Harm: every job compiles for ten seconds what it then uses for one."""
        fit_coordinates(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
        from umap import layouts, umap_

        for compiled in (
            umap_.smooth_knn_dist,
            umap_.compute_membership_strengths,
            layouts._nb_optimize_layout_euclidean_single_epoch,
        ):
            assert compiled.stats.cache_path, compiled
            assert compiled.signatures, "it is no longer what the fit goes by"
