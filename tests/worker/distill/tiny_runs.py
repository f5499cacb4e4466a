"""Run folders for the engine that take seconds: a tiny teacher, a few hundred rows, a job.json."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from tests.fixtures.tiny_models import write_classifier, write_encoder

WORDS = {
    "animal": ["cat", "dog", "horse", "otter", "crow", "trout"],
    "colour": ["red", "green", "violet", "amber", "grey", "teal"],
    "fruit": ["apple", "pear", "plum", "fig", "cherry", "quince"],
}
FILLERS = ["i", "met", "a", "the", "very", "old", "new", "one", "here", "there", "and", "then"]
LABELS = sorted(WORDS)
VOCABULARY = sorted({*FILLERS, *(word for group in WORDS.values() for word in group)})

METHODS: dict[str, dict[str, Any]] = {
    "sage": {
        "type": "sage",
        "temperature": 2.0,
        "alpha": 0.9,
        "rounds": 2,
        "warmup_epochs": 1.0,
        "synthetic_ratio": 0.5,
        "lift": "splice",
        "candidates": 2.0,
        "targeting": "rows",
        "neighbors": 5,
        "anchor_quantile": 0.2,
        "scored_rows": 100,
        "early_stopping": False,
    },
    "kd": {"type": "kd", "temperature": 2.0, "alpha": 0.9},
    "fine_tune": {"type": "fine_tune"},
    "taid": {
        "type": "taid",
        "alpha": 1.0,
        "lambda_start": 0.4,
        "lambda_end": 1.0,
        "adaptation_rate": 5e-4,
        "momentum": 0.99,
    },
    "sinkd": {
        "type": "sinkd",
        "weight": 0.0256,
        "temperature": 2.0,
        "epsilon": 0.1,
        "iterations": 20,
        "debiased": False,
    },
    "pld": {"type": "pld", "temperature": 1.0},
    "bd_kd": {"type": "bd_kd", "temperature": 2.0, "weight": 1.0, "emphasis": 2.0},
    "nd": {"type": "nd", "weight": 1.0},
    "lelp": {"type": "lelp", "temperature": 2.0, "alpha": 0.9, "subclasses": 3, "subclass_temperature": 1.0},
    "rad": {"type": "rad", "teacher_error": None},
    "llkd": {"type": "llkd", "momentum": 0.99, "least_share": 0.1, "gated": "all"},
    "pruned": {"type": "pruned", "fraction": 0.5, "temperature": 2.0, "alpha": 0.78},
    "opdf": {"type": "opdf", "tensors": 5, "alignment_weight": 1e-4, "learning_rate_ratio": 0.5},
    "random_anchors": {
        "type": "random_anchors",
        "temperature": 2.0,
        "alpha": 0.9,
        "rounds": 2,
        "warmup_epochs": 1.0,
        "synthetic_ratio": 0.5,
        "lift": "shift",
        "neighbors": 5,
    },
    "oversample": {
        "type": "oversample",
        "temperature": 2.0,
        "alpha": 0.9,
        "rounds": 2,
        "warmup_epochs": 1.0,
        "oversample_ratio": 0.5,
        "targeting": "region",
        "neighbors": 5,
        "anchor_quantile": 0.2,
        "scored_rows": 100,
    },
}
TUNING = {
    "epochs": 2.0,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "seed": 7,
}


def make_run(
    folder: Path,
    method_type: str = "kd",
    *,
    family: str = "bert",
    tuned: bool = False,
    has_pairs: bool = False,
    checkpoint_seconds: float = 3_600.0,
    train_rows: int = 150,
    validation_rows: int = 60,
    unlabelled_rows: int = 0,
    **changes: Any,
) -> Path:
    """A run folder; `changes` replace whole entries of job.json, or single fields by "section.field" keys."""
    folder.mkdir(parents=True)
    teacher = folder / "teacher"
    if tuned:
        write_encoder(teacher, VOCABULARY)
    else:
        write_classifier(teacher, VOCABULARY, LABELS, family=family)
    rows = {"train": train_rows, "validation": validation_rows, "test": 60}
    name = f"dataset-{has_pairs}-{train_rows}-{validation_rows}"
    if unlabelled_rows:
        rows["unlabelled"] = unlabelled_rows
        name += f"-{unlabelled_rows}"
    _write_dataset(folder / "dataset", has_pairs, rows)
    job: dict[str, Any] = {
        "format_version": 1,
        "job_id": "job_tiny",
        "teacher": {"path": "teacher", "sha256": f"teacher-{family}-{tuned}"},
        "dataset": {"path": "dataset", "sha256": name},
        "student": {"layers": 2, "hidden_size": "same", "init": "teacher_layers", "word_vectors": "trained"},
        "method": METHODS[method_type],
        "combine": [],
        "baselines": [],
        "training": {
            "epochs": 3.0,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "warmup_ratio": 0.1,
            "weight_decay": 0.01,
            "max_length": 24,
            "precision": "fp32",
            "seed": 11,
            "deterministic": True,  # what changes nothing on a processor
        },
        "teacher_tuning": TUNING if tuned else None,
        "threads": 1,
        "checkpoint": {"every_seconds": checkpoint_seconds, "keep": 2},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            job[section] = job[section] | {field: value}
        else:
            job[section] = value
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def events_of(folder: Path, *types: str) -> list[dict[str, Any]]:
    """The whole events so far, of `types` only where any are named."""
    if not (folder / "events.jsonl").exists():
        return []
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in events if not types or event["type"] in types]


def start_engine(folder: Path, *prefix: str, **settings: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*prefix, sys.executable, "-m", "worker.distill", str(folder)], **settings)


def _write_dataset(folder: Path, has_pairs: bool, rows: dict[str, int]) -> None:
    folder.mkdir()
    for split, count in rows.items():
        chance = random.Random(split)
        texts, labels = [], []
        for index in range(count):
            label = index % len(LABELS)
            words = chance.choices(FILLERS, k=chance.randint(2, 7))
            words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS[LABELS[label]]))
            texts.append(" ".join(words))
            labels.append(label)
        columns: dict[str, Any] = {"text": texts, "label": pa.array(labels, pa.int32())}
        if has_pairs:
            columns["text_pair"] = [" ".join(chance.choices(FILLERS, k=4)) for _ in texts]
        if split == "unlabelled":
            del columns["label"]
        parquet.write_table(pa.table(columns), folder / f"{split}.parquet")
    version = 2 if "unlabelled" in rows else 1
    summary = {"format_version": version, "labels": LABELS, "has_pairs": has_pairs, "rows": rows, "sha256": "tiny"}
    (folder / "dataset.json").write_text(json.dumps(summary))
