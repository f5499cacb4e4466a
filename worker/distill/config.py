"""What a run is told: RUN_DIR/job.json as frozen dataclasses.

The API resolves every default before a job is stored, so nothing here has one: a field that is
missing or unknown means that the API and the engine disagree, and the run refuses to guess.
Torch-free, so the worker can read it.
"""

import builtins
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from worker.distill.errors import InvalidJob

FORMAT_VERSION = 1
# Of dataset.json, which outlives releases. An engine that knows no unlabelled rows would leave them out without a word.
DATASET_FORMAT_VERSION, UNLABELLED_FORMAT_VERSION = 1, 2
Parameters = TypeVar("Parameters")


@dataclass(frozen=True)
class Source:
    """A folder of files, under the hash of their content."""

    path: str
    sha256: str


@dataclass(frozen=True)
class StudentConfig:
    layers: int
    hidden_size: Literal["same"]
    init: Literal["teacher_layers"]
    word_vectors: Literal["trained", "frozen"]


@dataclass(frozen=True)
class MethodConfig:
    """A method's name and its parameters, which only the method itself understands."""

    type: str
    parameters: Mapping[str, Any]

    def read(self, kind: "builtins.type[Parameters]") -> Parameters:
        """The parameters as dataclass `kind`; raises InvalidJob where they are not exactly its fields."""
        return read_fields(kind, self.parameters, where=f"method {self.type!r}")


@dataclass(frozen=True)
class TrainingConfig:
    epochs: float
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    max_length: int
    precision: Literal["auto", "fp32", "bf16"]
    seed: int
    deterministic: bool


@dataclass(frozen=True)
class TeacherTuningConfig:
    epochs: float
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class CheckpointConfig:
    every_seconds: float
    keep: int


@dataclass(frozen=True)
class JobConfig:
    job_id: str
    teacher: Source
    dataset: Source
    student: StudentConfig
    method: MethodConfig
    combine: tuple[MethodConfig, ...]  # what works together with `method`
    baselines: tuple[MethodConfig, ...]
    training: TrainingConfig
    teacher_tuning: TeacherTuningConfig | None
    threads: int
    checkpoint: CheckpointConfig

    @classmethod
    def load(cls, path: Path) -> "JobConfig":
        return cls.parse(read_job(path))

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "JobConfig":
        """Read the parsed job.json; raises InvalidJob naming the field at fault."""
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise InvalidJob(
                f"job.json has format_version {version!r}; this engine reads {FORMAT_VERSION}. "
                "Run the API and the worker from the same release."
            )
        raw = {name: value for name, value in raw.items() if name != "format_version"}
        _refuse_difference(set(raw), {field.name for field in fields(cls)}, "job.json")
        tuning = raw["teacher_tuning"]
        return cls(
            job_id=raw["job_id"],
            teacher=read_fields(Source, raw["teacher"], where="teacher"),
            dataset=read_fields(Source, raw["dataset"], where="dataset"),
            student=read_fields(StudentConfig, raw["student"], where="student"),
            method=_read_method(raw["method"]),
            combine=tuple(_read_method(method) for method in raw["combine"]),
            baselines=tuple(_read_method(baseline) for baseline in raw["baselines"]),
            training=read_fields(TrainingConfig, raw["training"], where="training"),
            teacher_tuning=tuning and read_fields(TeacherTuningConfig, tuning, where="teacher_tuning"),
            threads=int(raw["threads"]),
            checkpoint=read_fields(CheckpointConfig, raw["checkpoint"], where="checkpoint"),
        )


def read_job(path: Path) -> dict[str, Any]:
    """The job.json at `path`, as it stands; raises InvalidJob where there is none or it is not JSON."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidJob(f"{path} does not exist: a run folder needs a job.json.") from None
    except ValueError as error:
        raise InvalidJob(f"{path} is not JSON: {error}.") from None
    return raw


def read_fields(kind: type[Parameters], raw: Mapping[str, Any], *, where: str) -> Parameters:
    """Build dataclass `kind` from exactly its own fields; an int is accepted where a float is asked for."""
    types_of = typing.get_type_hints(kind)
    hints = {field.name: types_of[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    _refuse_difference(set(raw), set(hints), where)
    return kind(**{name: _typed(raw[name], hint, f"{where}.{name}") for name, hint in hints.items()})


def _read_method(raw: Mapping[str, Any]) -> MethodConfig:
    if "type" not in raw:
        raise InvalidJob(f"a method needs a type, got {dict(raw)!r}.")
    return MethodConfig(raw["type"], {name: value for name, value in raw.items() if name != "type"})


def _typed(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        raise InvalidJob(f"{where} is {value!r}; it takes one of {', '.join(typing.get_args(hint))}.")
    if isinstance(hint, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InvalidJob(f"{where} is {value!r}; it takes a value of type {hint.__name__}.")
    return value


def _refuse_difference(got: set[str], expected: set[str], where: str) -> None:
    if missing := sorted(expected - got):
        raise InvalidJob(f"{where} lacks {', '.join(missing)}.")
    if unknown := sorted(got - expected):
        raise InvalidJob(f"{where} has unknown {', '.join(unknown)}; it takes {', '.join(sorted(expected))}.")
