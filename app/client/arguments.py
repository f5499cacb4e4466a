"""What the arguments of `stillhouse distil` mean: the teacher's name, the files of a dataset, the job's body."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.client.api import ClientError, Json

_HUB_NAME = re.compile(r"(?P<repo>[^/@\s]+(/[^/@\s]+)?)(@(?P<revision>\S+))?")


@dataclass(frozen=True)
class DatasetArgument:
    """A dataset that the server has (`known_id`), or the files of one to upload, by their part of the form."""

    known_id: str | None
    files: Mapping[str, Path]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class TeacherArgument:
    """A teacher that the server has (`known_id`), or a `folder` of one to upload, or where the server is to get one
    from (`source`, as POST /teachers takes it)."""

    known_id: str | None = None
    folder: Path | None = None
    source: Json | None = None


def read_dataset_argument(
    data: str, held_out: Mapping[str, Path | None], columns: Mapping[str, str | None]
) -> DatasetArgument:
    """Read the dataset's arguments.

    Args:
        data: a dataset's id, or the path of its training file.
        held_out: the other files, by their part of the form; None where the command names none.
        columns: the names of the columns, likewise.

    Raises:
        ClientError: a file is not there, or an id stands beside what describes files.
    """
    others = {part: path for part, path in held_out.items() if path is not None}
    names = {part: name for part, name in columns.items() if name is not None}
    if data.startswith("dts_") and not Path(data).exists():
        if unused := [*others, *names]:
            options = ", ".join("--" + part.replace("_", "-") for part in unused)
            raise ClientError(f"{data} is a dataset that the server has, to which {options} cannot be added any more.")
        return DatasetArgument(data, {}, {})
    files = {"train": Path(data), **others}
    for part, path in files.items():
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise ClientError(f"{path}, the file of the {part} rows, {what}.")
    return DatasetArgument(None, files, names)


def read_teacher_argument(text: str, *, is_far: bool) -> TeacherArgument:
    """Read a teacher's name: an id, a finished job's id, a folder, or a repository of the hub with its revision.

    Args:
        is_far: the server may be on another machine, so an absolute path that is not here may be one of its own.

    Raises:
        ClientError: it is a path to nothing, or none of these.
    """
    try:
        folder = Path(text).expanduser()
    except RuntimeError:  # the home of somebody who is not known here
        folder = Path(text)
    if text and folder.is_dir():
        return TeacherArgument(folder=folder)
    if text.startswith("tch_"):
        return TeacherArgument(known_id=text)
    if text.startswith("job_"):
        return TeacherArgument(source={"type": "job", "job": text})
    if is_far and folder.is_absolute():
        return TeacherArgument(source={"type": "folder", "path": text})
    named = _HUB_NAME.fullmatch(text)
    if named is None or text.startswith((".", "~")) or folder.exists():
        raise ClientError(
            f"--teacher {text}: there is no such folder. A teacher is a folder with a model, a repository of the hub "
            "(org/name, or org/name@revision), a teacher's id (tch_…) or the id of a job that has succeeded (job_…)."
        )
    source = {"type": "hub", "repo": named["repo"]}
    return TeacherArgument(source=source if named["revision"] is None else source | {"revision": named["revision"]})


def read_job_body(file: Path | None, *, layers: int | None, method: str | None, assignments: Sequence[str]) -> Json:
    """The body of POST /jobs as far as the command has it: a file's, then the options', then each `FIELD=VALUE`.

    Raises:
        ClientError: the file holds no JSON object, or an assignment none of a field.
    """
    body: Json = {} if file is None else _read_object(file)
    if layers is not None:
        _assign(body, ["student", "layers"], layers, f"--layers {layers}")
    if method is not None:
        body["method"] = {"type": method}
    for assignment in assignments:
        field, equals, value = assignment.partition("=")
        if not field or not equals:
            raise ClientError(f"--set {assignment}: give a field and its value, such as training.epochs=2.")
        _assign(body, field.split("."), _value(value), f"--set {assignment}")
    if not isinstance(body.get("student") or {}, dict):
        raise ClientError(f"student is {json.dumps(body['student'])}; give its fields, such as --set student.layers=3.")
    return body


def _read_object(file: Path) -> Json:
    try:
        found = _parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClientError(f"{file}, the job's body, cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ClientError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ClientError(f"{file} holds no JSON object, as the body of POST /jobs is one.")
    return found


def _assign(body: Json, path: Sequence[str], value: object, said: str) -> None:
    *parents, name = path
    inner = body
    for depth, parent in enumerate(parents, start=1):
        if inner.get(parent) is None:
            inner[parent] = {}
        inner = inner[parent]
        if not isinstance(inner, dict):
            raise ClientError(f"{said}: {'.'.join(path[:depth])} is no object with fields; set it as a whole, as JSON.")
    inner[name] = value


def _value(text: str) -> object:
    """As JSON, and a text that is none as it stands: a word needs no quotes."""
    try:
        return _parse(text)
    except ValueError:
        return text


def _parse(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    return json.loads(text, parse_constant=refuse)
