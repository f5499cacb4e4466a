"""One dataset and one pair of models: what decides each cell, and how it is measured."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import engine, machine
from bench.datasets import Dataset, count_tokens
from bench.flops import TokenCounts, training_flops
from bench.hyperparameters import Hyperparameters
from bench.models import Models
from bench.process import Measured
from bench.report import CHECKOUT
from bench.results import Cell, Results, cell_key
from bench.speed import peer
from bench.speed.environments import has_peer_python, package_versions, peer_python
from bench.speed.plan import STILLHOUSE, System


@dataclass
class Comparison:
    dataset: Dataset
    models: Models
    hyper: Hyperparameters
    precision: str  # of Stillhouse, and of the peers at their best
    threads: int
    cache: Path
    device: str = "cpu"  # or "cuda"
    # The interpreter for every peer; None: each gets an environment of its own.
    shared_python: Path | None = None
    # For each shape of the machine's own matmul rate.
    matmul_seconds: float = 0.15
    tokens: TokenCounts = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = count_tokens(self.dataset, self.models.teacher)

    @property
    def results(self) -> Results[Cell]:
        return Results(self.cache / "results", Cell)

    @property
    def steps(self) -> int:
        return self.hyper.epochs * -(-self.tokens.rows // self.hyper.batch_size)

    @property
    def tokens_per_step(self) -> float:
        """Real tokens in a batch, on average."""
        return self.hyper.epochs * self.tokens.tokens / self.steps

    @property
    def flops_per_step(self) -> float:
        """Useful floating-point operations of an optimiser step, on average."""
        return self.hyper.epochs * training_flops(self.models.student_shape, self.tokens) / self.steps

    def has_environment(self, system: System) -> bool:
        """Whether cells of `system` can be looked up without making an environment first."""
        return system == STILLHOUSE or self.shared_python is not None or has_peer_python(system.name, self.cache)

    def cell(self, system: System, number: int) -> Cell | None:
        """The cell of round `number`, if it has been measured."""
        return self.results.load(cell_key(self._ingredients(system, number)))

    def measure(self, system: System, number: int) -> Cell:
        """Do the job once and keep what came of it; `number` is the round and the seed."""
        ingredients = self._ingredients(system, number)
        work = self.cache / "work" / f"{self.dataset.name}-{system.id}-{number}"
        load_before = machine.load_average()
        if system == STILLHOUSE:
            measured, found = self._run_engine(work, number)
        else:
            measured, found = self._run_peer(system, work, number)
        cell = Cell(
            system=system.id,
            dataset=self.dataset.name,
            round=number,
            seconds=measured.seconds,
            peak_rss_bytes=measured.peak_rss_bytes,
            started_at=measured.started_at,
            load_before=load_before,
            load_after=machine.load_average(),
            machine=machine.facts(self.device),
            packages=ingredients["packages"],
            **found,
        )
        if cell.steps != self.steps:
            raise RuntimeError(
                f"{system.id} made {cell.steps} steps, not {self.steps}: it did another job. See {work}."
            )
        self.results.save(cell_key(ingredients), cell, ingredients)
        shutil.rmtree(work)
        return cell

    def _ingredients(self, system: System, number: int) -> dict[str, Any]:
        """All that decides a cell."""
        python = Path(sys.executable) if system == STILLHOUSE else self._peer_python(system)
        return {
            "system": system.id,
            "source": engine.source_hash() if system == STILLHOUSE else peer.source_hash(system),
            "packages": package_versions(python),
            "machine": machine.facts(self.device),
            "threads": self.threads,
            "dataset": self.dataset.sha256,
            "max_length": self.dataset.max_length,
            "teacher": self.models.teacher_sha256,
            "student": self.models.student_sha256,
            "hyperparameters": self.hyper.as_dict(),
            "precision": self.precision,
            "seed": number,
        }

    def _peer_python(self, system: System) -> Path:
        if self.shared_python is not None:
            return self.shared_python
        return peer_python(system.name, self.cache)

    def _run_engine(self, work: Path, seed: int) -> tuple[Measured, dict[str, Any]]:
        hyper = self.hyper
        engine.write_run(
            work,
            teacher=self.models.teacher,
            teacher_sha256=self.models.teacher_sha256,
            dataset=self.dataset,
            student_layers=self.models.student_shape.layers,
            training=hyper.training(epochs=hyper.epochs, precision=self.precision, seed=seed),
            method={"type": "kd", "temperature": hyper.temperature, "alpha": hyper.alpha},
            tuning=None,
            threads=self.threads,
        )
        before = self._matmul_rates()
        measured, events = engine.run(work, device=self.device)
        after = self._matmul_rates()
        steps = engine.student_steps(events)
        return measured, {
            "phases": engine.phase_seconds(events, measured),
            "step_seconds_median": steps.median,
            "step_seconds_mean": steps.mean,
            "steps": steps.count,
            "test_accuracy": engine.test_accuracy(events),
            "matmul": {"before": before, "after": after},
        }

    def _run_peer(self, system: System, work: Path, seed: int) -> tuple[Measured, dict[str, Any]]:
        task = {
            "teacher": str(self.models.teacher.resolve()),
            "student": str(self.models.student.resolve()),
            "dataset": str(self.dataset.folder.resolve()),
            "settings": system.settings,
            "precision": self.precision,
            "max_length": self.dataset.max_length,
            "threads": self.threads,
            "seed": seed,
            "device": self.device,
            **self.hyper.as_dict(),
        }
        measured, found = peer.run(system, self._peer_python(system), task, work)
        phases = found["phases"]
        phases["exit"] = max(0.0, measured.seconds - sum(phases[name] for name in phases if name != "teacher"))
        return measured, found

    def _matmul_rates(self) -> dict[str, Any]:
        shape = self.models.student_shape
        command = [sys.executable, "-m", "bench.speed.matmul", "--tokens", str(round(self.tokens_per_step))]
        command += ["--hidden", str(shape.hidden), "--intermediate", str(shape.intermediate)]
        command += ["--threads", str(self.threads), "--seconds", str(self.matmul_seconds), "--device", self.device]
        output = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
        return dict(json.loads(output))
