"""The engine program of these tests: `python -m tests.bad_days.engine RUN_DIR` plays, for each job, a part.

$BAD_DAYS_PARTS/JOB_ID holds the part's name, else $BAD_DAYS_PARTS/any does; without both the job is a student that
succeeds at once. The parts of tests/worker/scripted_engine.py are known here too. `full MODULE:FUNCTION` is the real
engine, on a disk that is full from the first call of that function on.
"""

import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fixtures.disk import fill
from tests.worker import scripted_engine
from tests.worker.scripted_engine import STEP, Run

PARTS_VARIABLE = "BAD_DAYS_PARTS"
ANY_JOB = "any"


def steered(run: Run) -> int:
    """Does what the test says, one command after another, and does not listen to anybody else."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run.begin()
    for number in itertools.count(1):
        command = _command(f"{run.job['job_id']}.{number}")
        if command == "checkpoint":
            run.checkpoint(number * STEP)
        elif command == "progress":
            progress = {"progress": number / 10, "eta_seconds": 9.0, "loss": 0.5}
            run.events.emit("progress", phase="training", round=1, rounds=2, **progress)
        elif command == "finish":
            run.finish()
            break
        else:
            raise ValueError(f"no command is named {command!r}")
    return 0


def deaf_family(run: Run) -> int:
    """Has a helper, a checkpoint and no ear for SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]):
        run.begin()
        run.checkpoint(STEP)
        time.sleep(600)
    return 0


def kills_its_worker(run: Run) -> int:
    run.begin()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    return 0


def long_student(run: Run) -> int:
    """A student that takes three seconds, with a checkpoint now and then."""
    run.begin()
    for number in range(1, 7):
        time.sleep(0.5)
        run.checkpoint(number * STEP)
    run.finish()
    return 0


PARTS: dict[str, Callable[[Run], int]] = {
    **scripted_engine.PARTS,
    **{part.__name__: part for part in (steered, deaf_family, kills_its_worker, long_student)},
}


def on_a_full_disk(folder: Path, place: str) -> int:
    """The real engine; at the first call of the function at `place` its disk becomes full."""
    module_name, _, name = place.partition(":")
    module = importlib.import_module(module_name)
    real = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        fill(folder)
        return real(*arguments, **named)

    setattr(module, name, call)
    sys.argv = ["worker.distill", str(folder)]
    from worker.distill import __main__ as engine

    engine._leave(engine.main())
    return 0


def _command(name: str) -> str:
    path = Path(os.environ[PARTS_VARIABLE]) / name
    while not path.exists():
        time.sleep(0.02)
    return path.read_text()


def _part(job_id: str) -> str:
    written = [Path(os.environ[PARTS_VARIABLE]) / name for name in (job_id, ANY_JOB)]
    return next((path.read_text() for path in written if path.exists()), "student")


def main() -> int:
    folder = Path(sys.argv[1])
    # RUN_DIR is WORK_DIR/JOB_ID/RUN_TOKEN.
    part, _, place = _part(folder.parent.name).partition(" ")
    return on_a_full_disk(folder, place) if part == "full" else PARTS[part](Run(folder))


if __name__ == "__main__":
    sys.exit(main())
