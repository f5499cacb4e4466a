"""Which of an arm's rounds is kept, and what is said of each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.distill.tiny_runs import events_of, make_run
from worker.distill.evaluate import Quality
from worker.reporter import _checkpoint_facts

# The accuracy and the loss of each round: the fourth is best, by its loss.
MEASURED = [(0.5, 1.0), (0.8, 0.95), (0.6, 0.1), (0.8, 0.9), (0.8, 0.93)]


class TestBestRound:
    def test_is_the_one_of_highest_accuracy_and_then_of_lowest_loss(
        self, tmp_path: Path, run_engine: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: the student is that of another round than its manifest says, or than the checkpoint that is kept for
        being the best."""
        measured = (Quality(accuracy, accuracy, loss, 0.0) for accuracy, loss in MEASURED)
        monkeypatch.setattr("worker.distill.train.measure_quality", lambda *_: next(measured))
        changes: dict[str, Any] = {"training__epochs": 5.0, "checkpoint": {"every_seconds": 3_600.0, "keep": 10}}
        folder = make_run(tmp_path / "run", "kd", **changes)
        artifact = run_engine(folder)
        assert json.loads((artifact / "manifest.json").read_text())["arms"]["student"]["best_round"] == 4
        said = events_of(folder, "checkpoint")
        assert [(facts.round, facts.is_best, facts.validation_accuracy) for facts in map(_checkpoint_facts, said)] == [
            (1, True, 0.5),
            (2, True, 0.8),
            (3, False, 0.6),
            (4, True, 0.8),
            (5, False, 0.8),
        ]
        *rounds, last = (folder / event["path"] for event in said)
        finished = load_file(last / "finished-student.safetensors")
        shipped = load_file(artifact / "model.safetensors")
        for number, checkpoint in enumerate(rounds, start=1):
            weights = load_file(checkpoint / "model.safetensors")
            assert holds(finished, weights) == (number == 4)
            words, vectors = weights.pop("word_rows"), weights.pop("word_vectors")
            assert holds(shipped, weights) == (number == 4)
            assert torch.equal(shipped["bert.embeddings.word_embeddings.weight"][words], vectors) == (number == 4)


def holds(model: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(model[name], value) for name, value in weights.items())
