"""What every peer's program needs: the task, rows as token ids, an evaluation, and a stopwatch.

Only what a user would write around the library stands here; how the library is used stands in each program.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow.parquet as parquet
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BEST = "best"


@dataclass(frozen=True)
class Task:
    """A task file: folders, hyperparameters, and in which of its two settings the library is to be used."""

    teacher: str
    student: str
    dataset: str
    output: str
    settings: str
    precision: str  # of the best settings; as documented it is fp32
    max_length: int
    threads: int
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    temperature: float
    alpha: float
    device: str = "cpu"

    @property
    def is_best(self) -> bool:
        return self.settings == BEST

    @property
    def is_bf16(self) -> bool:
        return self.is_best and self.precision == "bf16"

    def count_steps(self, rows: int) -> int:
        return self.epochs * -(-rows // self.batch_size)

    def count_warmup_steps(self, rows: int) -> int:
        return round(self.warmup_ratio * self.count_steps(rows))


@dataclass
class Stopwatch:
    """Seconds of each phase, and when each optimiser step ended."""

    phases: dict[str, float] = field(default_factory=dict)
    _marks: list[float | None] = field(default_factory=list)
    _phase: str = "start"

    def __post_init__(self) -> None:
        # Launch to here: the interpreter and the libraries.
        self.phases["start"] = time.time() - float(os.environ["BENCH_STARTED_AT"])
        # For every optimiser, whoever makes it and steps it.
        register_optimizer_step_post_hook(lambda *_: self._marks.append(time.perf_counter()))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of this block to the phase."""
        began, self._phase = time.perf_counter(), name
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - began)

    def interrupt_steps(self) -> None:
        """What comes between the last step and the next one is no training: it counts for neither."""
        self._marks.append(None)

    def time_teacher(self, teacher: torch.nn.Module) -> None:
        """Count the teacher's forward passes in training as "teacher" too, wherever the library makes them."""
        forward = teacher.forward

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            outputs = forward(*arguments, **named)
            if self._phase == "training":
                self._add("teacher", time.perf_counter() - began)
            return outputs

        teacher.forward = timed

    def _add(self, name: str, seconds: float) -> None:
        self.phases[name] = self.phases.get(name, 0.0) + seconds

    def step_seconds(self) -> list[float]:
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [after - before for before, after in pairs if before is not None and after is not None]

    @property
    def steps(self) -> int:
        return sum(mark is not None for mark in self._marks)


def begin() -> tuple[Task, Path, Stopwatch]:
    """The task, where the result goes, and the running stopwatch. Call it first."""
    task_file, result_file = sys.argv[1:]
    task = Task(**json.loads(Path(task_file).read_text()))
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    return task, Path(result_file), Stopwatch()


def finish(result_file: Path, watch: Stopwatch, test_accuracy: float) -> None:
    durations = watch.step_seconds()
    result = {
        "phases": watch.phases,
        "step_seconds_median": median(durations),
        "step_seconds_mean": fmean(durations),
        "steps": watch.steps,
        "test_accuracy": test_accuracy,
    }
    result_file.write_text(json.dumps(result))


def load_models(task: Task) -> tuple[Any, Any, Any]:
    """Tokenizer, teacher, student. Eager attention beats the default at these lengths on a processor."""
    tokenizer = AutoTokenizer.from_pretrained(task.teacher)
    settings = {"attn_implementation": "eager"} if task.is_best and task.device == "cpu" else {}
    teacher = AutoModelForSequenceClassification.from_pretrained(task.teacher, **settings)
    student = AutoModelForSequenceClassification.from_pretrained(task.student, **settings)
    teacher.eval()
    return tokenizer, teacher.to(task.device), student.to(task.device)


def load_rows(task: Task, split: str, tokenizer: Any, *, padding: bool | str = False) -> list[dict[str, Any]]:
    """A split as a list of {input_ids, token_type_ids, attention_mask, labels}: what `datasets.map` would give."""
    columns = parquet.read_table(Path(task.dataset) / f"{split}.parquet").to_pydict()
    encoded = tokenizer(
        columns["text"], columns.get("text_pair"), truncation=True, max_length=task.max_length, padding=padding
    )
    names = list(encoded)
    values = zip(*(encoded[name] for name in names), strict=True)
    labels = columns["label"]
    return [dict(zip(names, row, strict=True)) | {"labels": label} for row, label in zip(values, labels, strict=True)]


@torch.inference_mode()
def ask_teacher_once(teacher: torch.nn.Module, rows: list[dict[str, Any]], collate: Any) -> None:
    """Put the teacher's logits into each row; longest rows first, so that a batch is of like length."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["input_ids"]))
    start = 0
    while start < len(order):
        # Of short rows 128 are faster than 32 on a processor, of rows of 100 tokens it is the other way round.
        batch_rows = min(128, max(32, 4_096 // len(rows[order[start]]["input_ids"])))
        chosen = order[start : start + batch_rows]
        start += batch_rows
        batch = collate([rows[index] for index in chosen])
        batch = {name: value.to(teacher.device) for name, value in batch.items() if name != "labels"}
        for index, logits in zip(chosen, teacher(**batch).logits, strict=True):
            rows[index]["teacher_logits"] = logits.tolist()


def with_teacher_logits(collate: Any) -> Any:
    """A collator for rows of which some have the teacher's logits: those are collated beside the rest."""

    def collate_both(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = dict(collate([{name: row[name] for name in row if name != "teacher_logits"} for row in rows]))
        if "teacher_logits" in rows[0]:
            batch["teacher_logits"] = torch.tensor([row["teacher_logits"] for row in rows])
        return batch

    return collate_both


def autocast_forward(model: torch.nn.Module) -> None:
    """bf16 for a library that has no setting for it, around the model's forward pass as Accelerate does it."""
    forward = model.forward

    def cast(*arguments: Any, **named: Any) -> Any:
        with torch.autocast(model.device.type, torch.bfloat16):
            return forward(*arguments, **named)

    model.forward = cast
    # Losses are computed in fp32. A hook, for torchdistill takes the logits from the classifier by a hook as well.
    model.classifier.register_forward_hook(lambda _, __, logits: logits.float())


@torch.inference_mode()
def accuracy(model: torch.nn.Module, loader: Any) -> float:
    """Share of rows whose largest logit is the label's; leaves the model in evaluation mode."""
    model.eval()
    hits = rows = 0
    for batch in loader:
        batch = {name: value.to(model.device) for name, value in batch.items()}
        labels = batch.pop("labels")
        hits += int((model(**batch).logits.argmax(-1) == labels).sum())
        rows += len(labels)
    return hits / rows
