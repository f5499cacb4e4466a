"""A run's parts, read from its folder and held against each other: a bad one is found before the hours, not after."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.distill.arms import methods_by_arm
from worker.distill.config import JobConfig
from worker.distill.data import Dataset, load_dataset
from worker.distill.device import Compute, choose_compute, environment
from worker.distill.families import last_layer, word_table
from worker.distill.methods.registry import build_recipe, revisions
from worker.distill.network import Network
from worker.distill.networks import build_network
from worker.distill.teacher import check_length, load_teacher, load_tokenizer
from worker.distill.vectors import check_vector_interface


@dataclass(frozen=True)
class Parts:
    compute: Compute
    environment: dict[str, Any]  # what the bits of a run depend on beside its inputs
    tokenizer: Any
    dataset: Dataset
    teacher: Network  # as it came
    table: torch.Tensor  # of its word vectors


def load_parts(folder: Path, job: JobConfig, threads: int) -> Parts:
    """Raises an EngineError where the job, its teacher and its dataset do not go together."""
    compute = choose_compute(job.training, threads)
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
