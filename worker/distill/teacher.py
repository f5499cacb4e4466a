"""The teacher: loaded from a plain folder, its labels brought into the dataset's order, its word table frozen."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from worker.distill import seed as seeds
from worker.distill.device import Compute
from worker.distill.errors import InvalidJob, TeacherLabelMismatch
from worker.distill.families import family_of, word_table
from worker.distill.label_order import find_better_order
from worker.distill.tokenizer_files import find_foreign_entry, is_fast, named_class

# What a config.json may ask for beside the logits, which are all that is read: attention that gives its weights away
# is a slow one, and on a GPU not to be had.
_OUTPUTS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
_OUTPUTS_TOLD = 100  # of an order that is doubted


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, which pads behind the text; raises InvalidJob where it is none that can be used."""
    if foreign := find_foreign_entry(folder):
        raise InvalidJob(f"the teacher's {foreign} Then add the teacher again.")
    name = named_class(folder)
    if name is not None and not is_fast(name):
        raise InvalidJob(
            f"the teacher's tokenizer is a {name[:60]!r}, which is not one of the tokenizers library. "
            "Use a teacher that has a fast tokenizer."
        )
    config = _load_config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config, use_fast=True, trust_remote_code=False)
    # What the tokenizer returns by default has to be what the model takes, or the shipped pair breaks:
    # a DistilBERT beside BERT's tokenizer files is common.
    segments = ["token_type_ids"] if family_of(config).has_segments else []
    tokenizer.model_input_names = ["input_ids", *segments, "attention_mask"]
    # Of what it is, transformers saves only what it was made with.
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    # transformers saves how a tokenizer was found along with what it is: equal students would differ by it.
    for circumstance in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(circumstance, None)
    # Synthetic rows and the family's position numbering rely on padding behind the text.
    tokenizer.padding_side = "right"
    return tokenizer


def load_teacher(
    folder: Path, labels: list[str], compute: Compute, *, may_grow_head: bool, seed: int
) -> torch.nn.Module:
    """A classification model over `labels`, in that order, with the word-embedding table frozen.

    A classifier whose label names are the dataset's in another order has its head rearranged. A model
    without a head of the right size gets a fresh one, drawn from `seed`, where it `may_grow_head`
    (it is to be tuned); otherwise TeacherLabelMismatch is raised.
    """
    config = _load_config(folder)
    family = family_of(config)
    names = _class_names(config)
    is_rearranged = _has_names(names, labels)
    fits = is_rearranged or _fits_by_number(names, labels)
    if not fits and not may_grow_head:
        raise TeacherLabelMismatch(
            f"the teacher's labels ({_few(names)}) are not the dataset's ({_few(labels)}). "
            "Use a teacher of this task, rename the dataset's labels, or add teacher_tuning to the job."
        )
    settings: dict[str, Any] = {
        "attn_implementation": family.attention(compute.attention),
        "dtype": torch.float32,
        **_OUTPUTS,
    }
    if not fits:
        settings["num_labels"] = len(labels)
    transformers_logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    seeds.seed_dropout(seed, "teacher", "head")
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=not fits,
        output_loading_info=True,
        **settings,
    )
    if info["missing_keys"] and not may_grow_head:
        raise InvalidJob(
            f"the teacher's folder lacks the weights {_few(sorted(info['missing_keys']))}: it is an encoder "
            "that was never fine-tuned for this task. Add teacher_tuning to the job."
        )
    if is_rearranged:
        _rearrange_head(model.get_submodule(family.classifier_path), [names.index(label) for label in labels])
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.config.problem_type = "single_label_classification"
    freeze_word_table(model)
    return model.to(compute.device)


def freeze_word_table(model: torch.nn.Module) -> None:
    """No dense gradient of it and no dense optimiser state: words.py trains the rows that occur, where any are."""
    word_table(model).requires_grad_(False)


def check_length(config: Any, max_length: int) -> None:
    positions = config.max_position_embeddings - family_of(config).first_position(config)
    if max_length > positions:
        raise InvalidJob(
            f"training.max_length is {max_length}, the teacher has positions for {positions} tokens: lower max_length "
            "to that."
        )


def doubt_order(folder: Path, labels: list[str], logits: np.ndarray, truth: np.ndarray) -> str | None:
    """A warning where the folder's teacher, which is not tuned, does not name its classes and seems to have them in
    another order than `labels`: by its `logits` (rows, classes) of rows whose labels are `truth` (rows,)."""
    if not _fits_by_number(_class_names(_load_config(folder)), labels):
        return None
    better = find_better_order(logits, truth)
    if better is None:
        return None
    # From 0, those alone that another class fits better.
    others = [f"output {i} as {labels[c]!r}" for i, c in enumerate(better.classes) if i != c]
    return (
        f"the teacher does not name its classes: its outputs were taken as the dataset's in their order "
        f"({_few(labels)}), by which it is right on {better.accuracy_as_taken:.1%} of the validation rows. It would be "
        f"right on {better.accuracy:.1%}, as far as they tell, with {'; '.join(others[:_OUTPUTS_TOLD])}. If that is "
        "its order, write the names into id2label of its config.json and add it again, or name the dataset's classes "
        "so that they sort in that order."
    )


def _load_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidJob(
            f"the teacher's config.json is not what transformers takes ({reason}). Add the teacher again, which puts "
            "class names right that are numbers; if it is refused, mend the file."
        ) from None


def _class_names(config: Any) -> list[str]:
    # Of an encoder that is to be tuned nobody has looked at them.
    return [str(config.id2label.get(index, "")) for index in range(config.num_labels)]


def _has_names(names: list[str], labels: list[str]) -> bool:
    """By name wherever the names are the same, LABEL_0 and so on too: a dataset has LABEL_10 before LABEL_2."""
    return sorted(names) == sorted(labels)


def _fits_by_number(names: list[str], labels: list[str]) -> bool:
    has_real_names = not all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return not has_real_names and len(names) == len(labels) and not _has_names(names, labels)


def _rearrange_head(head: torch.nn.Module, order: list[int]) -> None:
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        head.bias.copy_(head.bias[order].clone())


def _few(names: list[str], count: int = 5) -> str:
    shown = ", ".join(map(repr, names[:count]))
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"
