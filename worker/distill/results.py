"""What a run is worth: every model that it made, and the teacher, measured alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worker.distill.data import Dataset
from worker.distill.errors import NanLoss
from worker.distill.evaluate import agreement, measure_latencies, measure_lead, measure_quality
from worker.distill.network import Network
from worker.distill.networks import put_weights
from worker.distill.predict import predict_logits, rows_not_finite

HELD_OUT_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Measured:
    """A model of a run."""

    summary: dict[str, Any]  # as the job's result has it
    is_right: np.ndarray  # (rows,) bool, of the rows that are reported

    def ahead_of(self, others: Mapping[str, "Measured"]) -> dict[str, dict[str, float]]:
        """By how much it is above each of the others, by their names."""
        return {name: measure_lead(self.is_right, other.is_right).as_dict() for name, other in others.items()}


class Measurer:
    """Measures models on the held-out rows of one dataset; `teacher_logits` are by split, as computed once, and
    `check_stop` is called after each batch."""

    def __init__(
        self,
        dataset: Dataset,
        teacher_logits: Mapping[str, np.ndarray],
        device: torch.device,
        tokenizer: Any,
        max_length: int,
        check_stop: Callable[[], None],
    ) -> None:
        self.dataset = dataset
        self.teacher_logits = teacher_logits
        self.device = device
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.check_stop = check_stop
        self.splits = [name for name in HELD_OUT_SPLITS if name in dataset.splits]
        # Retention, agreement, leads and latency are taken on the test split, or on validation where there is none.
        self.reported = self.splits[-1]

    def measure_teacher(self, teacher: Network) -> Measured:
        return self._measured(teacher.model, self.teacher_logits, whole_accuracy=None)

    def measure_student(self, student: Network, weights: dict[str, torch.Tensor], teacher: Measured) -> Measured:
        """`student` with its arm's best `weights`; `teacher` is what `measure_teacher` gave."""
        put_weights(student, weights)
        logits = {}
        for name in self.splits:
            split = self.dataset.splits[name]
            logits[name] = predict_logits(student, split, self.device, after_batch=lambda _: self.check_stop())
            if len(rows_not_finite(logits[name])):
                raise NanLoss(
                    f"the trained student answers some {name} rows with logits that are not finite numbers: lower the "
                    "learning rate (a tenth is a good next try), or set training.precision to fp32."
                )
        return self._measured(student.model, logits, whole_accuracy=float(teacher.is_right.mean()))

    def measure_latencies(self, *networks: Network) -> list[dict[str, float]]:
        """Of each, in turns."""
        models = [network.model for network in networks]
        examples = self.dataset.examples[self.reported]
        return measure_latencies(models, self.tokenizer, examples, self.max_length, self.check_stop)

    def _measured(
        self, model: torch.nn.Module, logits: Mapping[str, np.ndarray], *, whole_accuracy: float | None
    ) -> Measured:
        quality: dict[str, dict[str, float]] = {
            name: measure_quality(logits[name], self.dataset.splits[name].labels).as_dict() for name in self.splits
        }
        accuracy = quality[self.reported]["accuracy"]
        whole = accuracy if whole_accuracy is None else whole_accuracy
        summary = {
            "validation": quality["validation"],
            "test": quality.get("test"),
            "retention": accuracy / whole if whole else None,
            "agreement": agreement(logits[self.reported], self.teacher_logits[self.reported]),
            "parameters": sum(p.numel() for p in model.parameters()),
            "size_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        }
        is_right = logits[self.reported].argmax(1) == self.dataset.splits[self.reported].labels
        return Measured(summary, is_right)
