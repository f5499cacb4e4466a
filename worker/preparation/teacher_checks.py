"""Is this folder a teacher? Answered from config.json, the weights' header and the tokenizer, without torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from app.domain.quoting import quote
from worker.distill.tokenizer_files import SETTINGS, SPECIAL_TOKENS, find_foreign_entry, is_fast, named_class
from worker.preparation.errors import PreparationFailed
from worker.preparation.families import FAMILIES, Family, ModelSize
from worker.preparation.safetensors_header import TensorInfo, read_weights
from worker.preparation.staging import MAX_LABELS
from worker.preparation.values import MAX_LABEL_CHARACTERS, class_name

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
    _check_tokenizer(folder, family, size)
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


def spell_out_labels(folder: Path) -> None:
    """Write the class names of the folder's config.json as text where some are numbers or truth values.

    transformers takes text alone, and some training scripts write what their dataset had. Where all are text the file
    stays as it is, to the byte.
    """
    config = read_config(folder)
    names = config.get("id2label")
    if not isinstance(names, dict) or all(isinstance(name, str) for name in names.values()):
        return
    config["id2label"] = {index: class_name(name) for index, name in names.items()}
    config.pop("label2id", None)  # transformers has it from the other
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


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
    if not family.counts_positions_from_padding:
        return 0
    padding = config.get("pad_token_id", 1)
    if not isinstance(padding, int) or padding < 0:
        raise _mismatch(
            f"the pad_token_id in config.json is {quote(padding)}, and a {family.model_type} counts positions from it",
            "Write the number there that the tokenizer has for its padding token.",
        )
    return padding + 1


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
    if count > MAX_LABELS:
        raise _mismatch(
            f"the classifier has {count} outputs; a dataset has at most {MAX_LABELS} classes",
            "Use a teacher of fewer classes, or the encoder below its classifier.",
        )
    _check_tensor(tensors, f"{family.classifier}.weight", (count, size.hidden_size))
    _check_tensor(tensors, f"{family.classifier}.bias", (count,))
    for name, shape in family.head_shapes(size.hidden_size).items():
        _check_tensor(tensors, name, shape)
    names = config.get("id2label")
    if names is None:
        # transformers leaves id2label out where it is the default for the number of labels.
        return [f"LABEL_{index}" for index in range(count)]
    try:
        if len(names) != count:
            raise _mismatch(f"the classifier has {count} outputs, id2label in config.json names {len(names)}")
        labels = [class_name(names[str(index)]) for index in range(count)]
    except (KeyError, TypeError):
        raise _mismatch(f"id2label in config.json is {quote(names)}; it takes names for 0, 1, 2, …") from None
    for label in labels:
        _check_label(label)
    return labels


def _check_label(label: str) -> None:
    """Refuse what no class of a dataset is called, and no row of a database holds."""
    way_out = "Name the classes in id2label as the dataset names them."
    if len(label) > MAX_LABEL_CHARACTERS:
        raise _mismatch(
            f"id2label in config.json has the name {quote(label)} of {len(label)} characters; "
            f"a class's name has at most {MAX_LABEL_CHARACTERS}",
            way_out,
        )
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in label):
        raise _mismatch(
            f"id2label in config.json has the name {quote(label)}, which contains a NUL or half of a surrogate pair",
            way_out,
        )


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


def _check_tokenizer(folder: Path, family: Family, size: ModelSize) -> None:
    config = _read_optional(folder / SETTINGS)
    special = _read_optional(folder / SPECIAL_TOKENS)
    if "auto_map" in config:
        raise _bad_tokenizer(f"{SETTINGS} asks for code of its own (auto_map), which is never run")
    if foreign := find_foreign_entry(folder):
        raise PreparationFailed("teacher_tokenizer_unsupported", foreign)
    kind = named_class(folder) or family.tokenizer
    if not is_fast(kind):
        raise _bad_tokenizer(f"the tokenizer is a {quote(kind)}, which is not one of the tokenizers library")
    class_name = kind.removesuffix("Fast")
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
    pad = _token(config.get("pad_token") or special.get("pad_token")) or _PADDING.get(class_name)
    if pad not in vocabulary:
        raise _bad_tokenizer(f"the tokenizer's vocabulary has no padding token ({quote(pad)})")


def _token(named: Any) -> Any:
    return named.get("content") if isinstance(named, dict) else named


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_json(path, "teacher_tokenizer_unsupported") if path.exists() else {}


def _read_json(path: Path, code: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PreparationFailed(code, f"{path.name} is not JSON ({error}). Save the model again.") from None
    if not isinstance(value, dict):
        raise PreparationFailed(code, f"{path.name} is not a JSON object. Save the model again.")
    return value


def _mismatch(
    what: str, way_out: str = "Give a folder whose config.json and weights were saved together."
) -> PreparationFailed:
    return PreparationFailed("teacher_weights_mismatch", f"{what[0].upper()}{what[1:]}. {way_out}")


def _bad_tokenizer(what: str) -> PreparationFailed:
    sentence = what[0].upper() + what[1:]
    return PreparationFailed(
        "teacher_tokenizer_unsupported",
        f"{sentence}. Save a fast tokenizer beside the model with `tokenizer.save_pretrained`.",
    )
