"""One job through a peer: a task file in, a result file out, a process of its own around it."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.process import Measured, run_measured
from bench.results import hash_files
from bench.speed.environments import PEERS
from bench.speed.plan import System


def program(system: System) -> Path:
    return PEERS / f"with_{system.name}.py"


def source_hash(system: System) -> str:
    return hash_files([program(system), PEERS / "shared.py"])


def run(system: System, python: Path, task: dict[str, Any], work: Path) -> tuple[Measured, dict[str, Any]]:
    """Run the peer's program on `task` (shared.py describes it); what it measured of itself."""
    shutil.rmtree(work, ignore_errors=True)
    output = work / "output"
    output.mkdir(parents=True)
    task_file, result_file = work / "task.json", work / "result.json"
    task_file.write_text(json.dumps({**task, "output": str(output)}))
    offline = {"HF_HUB_OFFLINE": "1", "BENCH_STARTED_AT": str(time.time())}
    environment = machine.environment(task["device"]) | offline
    command = [str(python), str(program(system)), str(task_file), str(result_file)]
    measured = run_measured(command, log=work / "log.txt", environment=environment, cwd=work)
    return measured, json.loads(result_file.read_text())
