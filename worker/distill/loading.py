"""A run's parts, read from its folder and held against each other: a bad one is found before the hours, not after."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from worker.distill.arms import methods_by_arm
from worker.distill.config import JobConfig
from worker.distill.data import Dataset, load_dataset
from worker.distill.device import Compute, choose_compute, environment
from worker.distill.errors import InvalidJob
from worker.distill.families import family_of, last_layer, word_table
from worker.distill.methods.registry import build_recipe, revisions
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.teacher import check_length, load_teacher, load_tokenizer
from worker.distill.vectors import check_vector_interface

# A few texts that are too long are in most datasets.
_CUT_ROWS_TOLD_OF = 0.05


@dataclass(frozen=True)
class Parts:
    compute: Compute
    environment: dict[str, Any]  # what the bits of a run depend on beside its inputs
    tokenizer: Any
    dataset: Dataset
    teacher: Network  # as it came
    table: torch.Tensor  # of its word vectors


def load_parts(folder: Path, job: JobConfig, began: Mapping[str, Any] | None) -> Parts:
    """`began` is the environment of the run that this one goes on with. Raises an EngineError where the job, its
    teacher and its dataset do not go together."""
    compute = choose_compute(job.training, began["threads"] if began else job.threads, began)
    methods_of = methods_by_arm(job)
    recipes = [build_recipe(methods) for methods in methods_of.values()]
    teacher_folder = folder / job.teacher.path
    tokenizer = load_tokenizer(teacher_folder)
    dataset = load_dataset(folder / job.dataset.path, tokenizer, job.training.max_length)
    tuning = job.teacher_tuning
    model = load_teacher(
        teacher_folder,
        dataset.labels,
        compute,
        may_grow_head=tuning is not None,
        seed=tuning.seed if tuning else job.training.seed,
    )
    check_length(model.config, job.training.max_length)
    _check_segments(model.config, dataset)
    for recipe in recipes:
        recipe.objective.check(len(dataset.labels), last_layer(model).in_features)
        if recipe.parameterisation is not None:
            recipe.parameterisation().check(model)
    check_vector_interface(model, dataset.train, compute)
    table = word_table(model)
    teacher = build_network(model, compute)
    runs_in = environment(compute) | {"arithmetic": teacher.arithmetic}
    if revised := revisions(method.type for methods in methods_of.values() for method in methods):
        runs_in["methods"] = revised
    return Parts(compute, runs_in, tokenizer, dataset, teacher, table)


def doubt_length(dataset: Dataset, max_length: int) -> str | None:
    """A warning where many texts were cut at `max_length` tokens: the teacher is measured on the same stumps, so no
    figure of the job tells of it."""
    full = {name: int((split.lengths == max_length).sum()) for name, split in dataset.splits.items()}
    if all(full[name] < _CUT_ROWS_TOLD_OF * len(split) for name, split in dataset.splits.items()):
        return None
    told = ", ".join(f"{full[name]} of {len(split)} {name} rows" for name, split in dataset.splits.items())
    return (
        f"{told} fill the {max_length} tokens of training.max_length: what their texts have beyond was cut off, for "
        "the teacher too. Where it matters, post the job with a higher one; time and memory grow with it."
    )


def doubt_padding(config: Any, dataset: Dataset, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """A warning where texts contain the padding's token and the teacher counts positions by it.

    Read by ids, as the student is where it is used, such a row's tokens stand elsewhere than read by vectors. No job
    fails by it: of training rows it is harmless, and nobody can take a few stray ones out of a dataset that is ready.
    """
    if not family_of(config).counts_positions_from_padding:
        return None
    found = {name: split.rows_with(config.pad_token_id) for name, split in dataset.splits.items()}
    padding = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    told = [f"{len(rows)} of {len(dataset.splits[name])} {name} rows" for name, rows in found.items() if len(rows)]
    if not told:
        return None
    first = next(dataset.splits[name].place(name, rows[0]) for name, rows in found.items() if len(rows))
    return (
        f"{', '.join(told)} contain {padding!r}, by which a {config.model_type} counts positions; the first is {first} "
        "(from 0, as the dataset was prepared). The shipped student reads such a text otherwise than it was trained "
        f"and measured here. Where there are many, take {padding!r} out of the texts and upload them again; and out of "
        "those that the student is asked about."
    )


def _check_segments(config: Any, dataset: Dataset) -> None:
    if not family_of(config).has_segments:
        return
    segments = 1 + max(int(split.segments.max()) for split in dataset.splits.values())
    if segments > config.type_vocab_size:
        raise InvalidJob(
            f"the dataset's texts are of {segments} segments, and the teacher tells {config.type_vocab_size} apart "
            "(type_vocab_size in its config.json): use a teacher that was trained on pairs of texts, or a dataset in "
            "which a row is one text."
        )
