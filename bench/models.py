"""The models that all systems begin with: a teacher tuned once for each dataset, and a student made of its layers."""

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import engine
from bench.datasets import Dataset
from bench.flops import EncoderShape
from bench.results import cell_key, hash_files

# The teacher is tuned once for each dataset, before and apart from everything that is timed, at the pair's own rate.
TUNING = {
    "epochs": 3.0,
    "batch_size": 32,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "seed": 7,
}


@dataclass(frozen=True)
class Pair:
    """A teacher of `teacher_layers` layers and a student of `student_layers` of them; at which rates they learn."""

    name: str
    teacher: str
    teacher_layers: int
    student_layers: int
    tuning_learning_rate: float = 1e-4
    learning_rate: float = 2e-4

    @property
    def tuning(self) -> dict[str, Any]:
        return TUNING | {"learning_rate": self.tuning_learning_rate}


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("minilm", "all-MiniLM-L6-v2", teacher_layers=6, student_layers=3),
        # The student's rate is the best of 5e-5, 1e-4 and 2e-4 on the validation rows, one seed of plain distillation.
        Pair(
            "mpnet",
            "all-mpnet-base-v2",
            teacher_layers=12,
            student_layers=6,
            tuning_learning_rate=3e-5,
            learning_rate=5e-5,
        ),
        # For speed alone: larger than what the others can be had of everywhere.
        Pair("random", "a BERT-base of random weights", teacher_layers=12, student_layers=6),
    )
}


@dataclass(frozen=True)
class Models:
    """Plain transformers folders, with the hash of their weights."""

    teacher: Path
    teacher_sha256: str
    student: Path
    student_sha256: str
    student_shape: EncoderShape


def make_models(base: Path, pair: Pair, dataset: Dataset, cache: Path, threads: int, device: str = "cpu") -> Models:
    """The tuned teacher and the student's beginning, from the cache where they are there.

    The tuning is the engine's own; the cache does not ask which version of it, so that a change of the engine leaves
    the teacher that the peers were measured with in place.
    """
    key = cell_key({"base": hash_files(base.glob("*.safetensors")), "dataset": dataset.sha256, "tuning": pair.tuning})
    folder = cache / "models" / f"{pair.name}-{dataset.name}-{key[:12]}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        work = cache / "work" / f"tuning-{key[:12]}"
        _tune(base, dataset, pair.tuning, partial / "teacher", work, threads=threads, device=device)
        write_student(partial / "teacher", partial / "student", pair.student_layers)
        partial.rename(folder)
    return open_models(folder)


def open_models(folder: Path) -> Models:
    teacher, student = folder / "teacher", folder / "student"
    return Models(
        teacher, _weights_hash(teacher), student, _weights_hash(student), encoder_shape(student / "config.json")
    )


def encoder_shape(config_file: Path) -> EncoderShape:
    config = json.loads(config_file.read_text())
    labels = len(config.get("id2label", {})) or 2
    return EncoderShape(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], labels)


def write_student(teacher_folder: Path, folder: Path, layers: int) -> None:
    """The teacher with fewer layers, those that the engine's student begins with, as a plain folder."""
    _silence_transformers()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from worker.distill.families import family_of
    from worker.distill.student import chosen_layers

    teacher: Any = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    family = family_of(teacher.config)
    kept = chosen_layers(layers, len(family.layers(teacher)))
    config = copy.deepcopy(teacher.config)
    setattr(config, family.layers_field, layers)
    student: Any = AutoModelForSequenceClassification.from_config(config)
    prefix = f"{family.layers_path}."
    weights = {name: value for name, value in teacher.state_dict().items() if not name.startswith(prefix)}
    for position, index in enumerate(kept):
        for name, value in family.layers(teacher)[index].state_dict().items():
            weights[f"{prefix}{position}.{name}"] = value
    student.load_state_dict(weights)
    student.save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder)


def _tune(
    base: Path, dataset: Dataset, tuning: dict[str, Any], folder: Path, work: Path, *, threads: int, device: str
) -> None:
    """Run a job with teacher_tuning, and a student of next to no steps, for the tuned teacher that it leaves behind."""
    _silence_transformers()
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from worker.distill.teacher import freeze_word_table
    from worker.distill.weights import load_weights

    engine.write_run(
        work,
        teacher=base,
        teacher_sha256="base",
        dataset=dataset,
        student_layers=1,
        training={**tuning, "epochs": 1e-6, "precision": "auto"},
        method={"type": "kd", "temperature": 2.0, "alpha": 0.9},
        tuning=tuning,
        threads=threads,
    )
    engine.run(work, device=device)
    (trained,) = (work / "cache" / "tuned_teachers").glob("*/*.safetensors")
    labels = json.loads((dataset.folder / "dataset.json").read_text())["labels"]
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    teacher: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels), **names)
    freeze_word_table(teacher)
    load_weights(teacher, load_file(trained))
    teacher.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    shutil.rmtree(work)


def _silence_transformers() -> None:
    """No progress bars, and no report of a head that is about to be replaced."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _weights_hash(folder: Path) -> str:
    return hash_files(folder.glob("*.safetensors"))
