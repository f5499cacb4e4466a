"""Is this folder a teacher? Answered from config.json, the weights' header and the tokenizer, without torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from worker.preparation.errors import PreparationFailed, quote
from worker.preparation.families import FAMILIES, Family, ModelSize
from worker.preparation.safetensors_header import TensorInfo, read_weights

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# Tokenizers that transformers builds from a plain vocab.txt, each also under a name that ends in Fast.
_VOCAB_TOKENIZERS = frozenset({"BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer"})
# The token that a tokenizer pads with where its files name none: roberta-base, for one, names none.
_PADDING = {
    "BertTokenizer": "[PAD]",
    "DistilBertTokenizer": "[PAD]",
    "MPNetTokenizer": "<pad>",
    "RobertaTokenizer": "<pad>",
}


@dataclass(frozen=True)
class TeacherSummary:
    """What the API says of a teacher; `num_labels` and `labels` are None for a base encoder."""

    family: str
    layers: int
    hidden_size: int
    num_labels: int | None
    labels: list[str] | None
    parameters: int
    max_positions: int


def check_teacher(folder: Path) -> TeacherSummary:
    """Check a folder that holds a teacher's files; raises PreparationFailed with a code and a sentence."""
    config = read_config(folder)
    family = check_family(config)
    size = family.read_size(config)
    tensors = read_weights(folder)
    # A file with a head puts the family's name before the encoder's tensors; a bare encoder does not.
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    _check_encoder(family, size, tensors, prefix)
    labels = _check_classifier(family, size, tensors, config)
    _check_tokenizer(folder, family, size, config)
    own = [
        f"{prefix}{part}." for part in ("embeddings", family.layer_prefix, "pooler", "encoder.relative_attention_bias")
    ]
    if labels:
        own += ["pre_classifier.", "classifier."]
    return TeacherSummary(
        family=family.model_type,
        layers=size.layers,
        hidden_size=size.hidden_size,
        num_labels=len(labels) if labels else None,
        labels=labels,
        parameters=sum(
            prod(tensor.shape)
            for name, tensor in tensors.items()
            if name.startswith(tuple(own)) and tensor.dtype in _FLOATS
        ),
        max_positions=size.max_positions - _first_position(family, config),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder."""
    return _read_json(folder / "config.json", "teacher_files_missing")


def check_family(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names, if it is one that can be taught from."""
    model_type = config.get("model_type")
    if "auto_map" in config:
        raise PreparationFailed(
            "teacher_family_unsupported",
            f"config.json asks for code of its own (auto_map, model_type {quote(model_type)}); "
            f"such code is never run. Use a plain model of type {_names()}.",
        )
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise PreparationFailed(
            "teacher_family_unsupported",
            f"config.json has the model_type {quote(model_type)}; teachers are of type {_names()}. "
            "Choose a model of one of these families.",
        )
    position = config.get("position_embedding_type") or "absolute"
    if position != "absolute":
        raise PreparationFailed(
            "teacher_family_unsupported",
            f"config.json has position_embedding_type {quote(position)}; only 'absolute' is supported.",
        )
    return family


def _names() -> str:
    *most, last = FAMILIES
    return f"{', '.join(most)} or {last}"


def _first_position(family: Family, config: Mapping[str, Any]) -> int:
    padding = config.get("pad_token_id", 1)
    return padding + 1 if family.counts_positions_from_padding and isinstance(padding, int) else 0


def _check_encoder(family: Family, size: ModelSize, tensors: Mapping[str, TensorInfo], prefix: str) -> None:
    for name, shape in family.encoder_shapes(size).items():
        _check_tensor(tensors, prefix + name, shape)
    found = re.compile(re.escape(f"{prefix}{family.layer_prefix}.") + r"(\d+)\.")
    deepest = max((int(match[1]) for name in tensors if (match := found.match(name))), default=-1)
    if deepest >= size.layers:
        raise _mismatch(f"the weights have {deepest + 1} layers, config.json says {size.layers}")


def _check_classifier(
    family: Family, size: ModelSize, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> list[str] | None:
    """The label names of a sequence classifier, in order; None for anything that has to be tuned first."""
    head = tensors.get(f"{family.classifier}.weight")
    architectures = [str(name) for name in config.get("architectures") or []]
    is_other_head = bool(architectures) and not any(
        name.endswith("ForSequenceClassification") for name in architectures
    )
    # One output is a regression or a reranker, many independent ones are another task: encoders to tune.
    is_other_task = config.get("problem_type") not in (None, "single_label_classification")
    if head is None or is_other_head or is_other_task or len(head.shape) != 2 or head.shape[0] < 2:
        return None
    count = head.shape[0]
    _check_tensor(tensors, f"{family.classifier}.weight", (count, size.hidden_size))
    _check_tensor(tensors, f"{family.classifier}.bias", (count,))
    for name, shape in family.head_shapes(size.hidden_size).items():
        _check_tensor(tensors, name, shape)
    names = config.get("id2label")
    if names is None:
        # transformers leaves id2label out where it is the default for the number of labels.
        return [f"LABEL_{index}" for index in range(count)]
    try:
        labels = [str(names[str(index)]) for index in range(len(names))]
    except (KeyError, TypeError):
        raise _mismatch(f"id2label in config.json is {quote(names)}; it takes names for 0, 1, 2, …") from None
    if len(labels) != count:
        raise _mismatch(f"the classifier has {count} outputs, id2label in config.json names {len(labels)}")
    return labels


def _check_tensor(tensors: Mapping[str, TensorInfo], name: str, shape: tuple[int, ...]) -> None:
    # Older files call a LayerNorm's weight and bias gamma and beta; transformers reads both.
    old_name = name
    if "LayerNorm." in name:
        old_name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    tensor = tensors.get(name) or tensors.get(old_name)
    if tensor is None:
        raise _mismatch(f"the weights have no {quote(name)}, which config.json implies")
    if tensor.shape != shape:
        raise _mismatch(f"{quote(name)} has the shape {list(tensor.shape)}, config.json implies {list(shape)}")
    if tensor.dtype not in _FLOATS:
        raise _mismatch(f"{quote(name)} is stored as {tensor.dtype}; quantised weights are not supported")


def _check_tokenizer(folder: Path, family: Family, size: ModelSize, model_config: Mapping[str, Any]) -> None:
    config_path = folder / "tokenizer_config.json"
    config = _read_json(config_path, "teacher_tokenizer_unsupported") if config_path.exists() else {}
    # As transformers chooses it.
    kind = str(config.get("tokenizer_class") or model_config.get("tokenizer_class") or family.tokenizer)
    class_name = kind.removesuffix("Fast")
    if "auto_map" in config:
        raise _bad_tokenizer("tokenizer_config.json asks for code of its own (auto_map), which is never run")
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
        except Exception as error:  # the library raises plain Exception
            raise _bad_tokenizer(f"tokenizer.json cannot be read ({error})") from None
    elif class_name in _VOCAB_TOKENIZERS:
        try:
            words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise _bad_tokenizer(f"vocab.txt is not UTF-8 ({error})") from None
        vocabulary = {word: index for index, word in enumerate(words)}
    else:
        raise _bad_tokenizer(f"the tokenizer is a {quote(kind)} without tokenizer.json")
    if not vocabulary or max(vocabulary.values()) >= size.vocabulary:
        raise _bad_tokenizer(
            f"the tokenizer has ids up to {max(vocabulary.values(), default=0)}, "
            f"the model's embedding table has {size.vocabulary} rows"
        )
    pad = _special_token(folder, config, "pad_token") or _PADDING.get(class_name)
    if pad not in vocabulary:
        raise _bad_tokenizer(f"the tokenizer's vocabulary has no padding token ({quote(pad)})")


def _special_token(folder: Path, config: Mapping[str, Any], name: str) -> str | None:
    path = folder / "special_tokens_map.json"
    special = _read_json(path, "teacher_tokenizer_unsupported") if path.exists() else {}
    token = config.get(name) or special.get(name)
    return token.get("content") if isinstance(token, dict) else token


def _read_json(path: Path, code: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PreparationFailed(code, f"{path.name} is not JSON ({error}). Save the model again.") from None
    if not isinstance(value, dict):
        raise PreparationFailed(code, f"{path.name} is not a JSON object. Save the model again.")
    return value


def _mismatch(what: str) -> PreparationFailed:
    sentence = what[0].upper() + what[1:]
    return PreparationFailed(
        "teacher_weights_mismatch",
        f"{sentence}. Give a folder whose config.json and weights were saved together.",
    )


def _bad_tokenizer(what: str) -> PreparationFailed:
    sentence = what[0].upper() + what[1:]
    return PreparationFailed(
        "teacher_tokenizer_unsupported",
        f"{sentence}. Save a fast tokenizer beside the model with `tokenizer.save_pretrained`.",
    )
