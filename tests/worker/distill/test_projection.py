"""The fit of the map as a process of its own; what it computes is in test_synthesis.py."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.distill.projection import ProjectionFit, fit_coordinates


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
