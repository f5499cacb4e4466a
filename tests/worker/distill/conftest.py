import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from worker.distill.events import EventLog
from worker.distill.loop import distil

# As the engine's own entry point does, for runs in this process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _same_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def projections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What earlier runs of the session projected: most tiny runs stand on the same rows."""
    return tmp_path_factory.mktemp("projections")


@pytest.fixture(scope="session")
def run_engine(projections: Path) -> Callable[[Path], Path]:
    """Runs the engine in this process (its imports are the costly part) and returns the artifact folder.

    Projections are taken from the cache as a worker would lay them there; their own tests fit afresh.
    """

    def run(folder: Path) -> Path:
        own = folder / "cache" / "projections"
        shutil.copytree(projections, own, dirs_exist_ok=True)
        events = EventLog(folder / "events.jsonl")
        try:
            distil(folder, events, lambda: False)
        finally:
            events.close()
        shutil.copytree(own, projections, dirs_exist_ok=True)
        return folder / "artifact"

    return run
