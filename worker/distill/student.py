"""The student: a shallower model of the teacher's family and width, made of the teacher's layers."""

import copy
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from worker.distill.config import StudentConfig
from worker.distill.device import Compute
from worker.distill.errors import InvalidJob
from worker.distill.families import family_of


def chosen_layers(student_layers: int, teacher_layers: int) -> list[int]:
    """Which teacher layers the student takes: evenly spaced, the first and the last among them."""
    if not 1 <= student_layers <= teacher_layers:
        raise InvalidJob(
            f"student.layers is {student_layers}, but the initialiser teacher_layers takes them from the "
            f"teacher's {teacher_layers}: choose 1 to {teacher_layers}."
        )
    if student_layers == 1:
        return [teacher_layers - 1]
    return np.linspace(0, teacher_layers - 1, student_layers).round().astype(int).tolist()


class TeacherLayersStudent:
    """Makes a student of layers of the teacher.

    `wrap` builds the trainable model: with a word table of its own where that is trained, else around the teacher's
    (one tensor, not a copy). `merge` gives back the plain model that loads from token ids.
    """

    def __init__(self, config: StudentConfig) -> None:
        self.config = config

    @property
    def trains_words(self) -> bool:
        return self.config.word_vectors == "trained"

    def wrap(self, teacher: torch.nn.Module, compute: Compute) -> torch.nn.Module:
        family = family_of(teacher.config)
        teacher_layers = family.layers(teacher)
        indices = chosen_layers(self.config.layers, len(teacher_layers))
        student_config = copy.deepcopy(cast(Any, teacher.config))
        setattr(student_config, family.layers_field, len(indices))
        student = AutoModelForSequenceClassification.from_config(
            student_config, attn_implementation=family.attention(compute.attention)
        )
        weights = {
            name: value for name, value in teacher.state_dict().items() if not name.startswith(f"{family.layers_path}.")
        }
        for position, index in enumerate(indices):
            for name, value in teacher_layers[index].state_dict().items():
                weights[f"{family.layers_path}.{position}.{name}"] = value
        student.load_state_dict(weights)
        student = student.to(compute.device)
        table = cast(Any, teacher).get_input_embeddings()
        cast(Any, student).set_input_embeddings(copy.deepcopy(table) if self.trains_words else table)
        return student

    def merge(self, student: torch.nn.Module) -> torch.nn.Module:
        """A plain model on the processor with a table of its own, ready to be saved."""
        return copy.deepcopy(student).to("cpu").eval()
