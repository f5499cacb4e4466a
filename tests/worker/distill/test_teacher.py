"""The teacher's classes in the dataset's order, by their names where the dataset has the same, else by number."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.tiny_models import FAMILIES, write_classifier
from worker.distill.device import Compute
from worker.distill.errors import InvalidJob
from worker.distill.families import last_layer
from worker.distill.teacher import load_teacher, load_tokenizer
from worker.preparation.datasets import sort_labels

COMPUTE = Compute(torch.device("cpu"), "fp32", threads=1, attention="eager", is_deterministic=True)
DEFAULT_NAMES = [f"LABEL_{index}" for index in range(12)]


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestLoadTeacher:
    def load_order(self, folder: Path, *, teacher: list[str], dataset: list[str], family: str = "bert") -> list[int]:
        """Which of the teacher's own outputs each of the loaded model's is."""
        write_classifier(folder, ["word"], teacher, family=family)
        model = load_teacher(folder, dataset, COMPUTE, may_grow_head=False, seed=0)
        head = last_layer(model)
        [own] = [
            tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
            if name.startswith("classifier.") and name.endswith("weight") and tensor.shape == head.weight.shape
        ]
        assert [model.config.id2label[index] for index in range(len(dataset))] == dataset
        return [int((own == row).all(1).nonzero().item()) for row in head.weight]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_names_in_another_order(self, tmp_path: Path, family: str) -> None:
        names = ["c", "a", "b"]
        assert self.load_order(tmp_path, teacher=names, dataset=sorted(names), family=family) == [1, 2, 0]

    def test_default_names_that_the_dataset_has_too(self, tmp_path: Path) -> None:
        """Harm: a dataset has LABEL_10 before LABEL_2, so the student learns the third class as the eleventh."""
        labels = sort_labels(DEFAULT_NAMES)
        assert labels != DEFAULT_NAMES
        order = self.load_order(tmp_path, teacher=DEFAULT_NAMES, dataset=labels)
        assert [f"LABEL_{index}" for index in order] == labels

    def test_default_names_that_the_dataset_has_in_their_order(self, tmp_path: Path) -> None:
        order = self.load_order(tmp_path, teacher=DEFAULT_NAMES, dataset=DEFAULT_NAMES)
        assert order == list(range(12))

    @pytest.mark.parametrize("labels", [[f"class {letter}" for letter in "lkjihgfedcba"], list(map(str, range(12)))])
    def test_default_names_fit_other_names_by_number(self, tmp_path: Path, labels: list[str]) -> None:
        assert self.load_order(tmp_path, teacher=DEFAULT_NAMES, dataset=labels) == list(range(12))

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_what_its_configuration_asks_for_beside_logits_is_not_given(self, tmp_path: Path, attention: str) -> None:
        """Harm: attention that gives its weights away is not to be had on a GPU, and the job fails there alone."""
        write_classifier(tmp_path / "teacher", ["word"], ["a", "b"])
        asked = {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
        change_config(tmp_path / "teacher", **asked)
        compute = replace(COMPUTE, attention=attention)
        model = load_teacher(tmp_path / "teacher", ["a", "b"], compute, may_grow_head=False, seed=0)
        answer = model(input_ids=torch.tensor([[2, 5, 3]]))
        assert list(answer) == ["logits"]
        model.save_pretrained(tmp_path / "student")
        assert asked.keys().isdisjoint(json.loads((tmp_path / "student/config.json").read_text()))

    def test_a_configuration_that_transformers_refuses_is_named(self, tmp_path: Path) -> None:
        """Harm: an internal error that nobody can act on."""
        write_classifier(tmp_path, ["word"], ["a", "b"])
        change_config(tmp_path, hidden_dropout_prob="a tenth")
        for load in (
            load_tokenizer,
            lambda folder: load_teacher(folder, ["a", "b"], COMPUTE, may_grow_head=True, seed=0),
        ):
            with pytest.raises(InvalidJob, match=r"config.json .*hidden_dropout_prob.*mend the file"):
                load(tmp_path)
