"""Receives the form of POST /teachers/upload. Parts come in any order."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from app.domain.files import StoredFile
from app.errors import InvalidRequest, UploadTooLarge
from app.services.form_parts import (
    LONGEST_FIELD,
    check_plain_name,
    expect_nothing,
    read_text,
    refuse_text_as_file,
    shown_name,
    store_file,
)
from app.services.multipart import PartBegin, PartEvent
from app.storage import keys
from app.storage.store import ObjectStore

FILE = "file"
NAME = "name"
# Of what `save_pretrained` writes: configuration, weights, tokenizer. Code and pickles are never taken.
SUFFIXES = (".json", ".safetensors", ".txt")
MOST_FILES = 200

_EXAMPLE = "curl -F file=@config.json -F file=@model.safetensors -F file=@tokenizer.json"


@dataclass
class TeacherForm:
    name: str = ""
    files: dict[str, StoredFile] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(file["size_bytes"] for file in self.files.values())


async def receive_teacher_form(
    parts: AsyncIterator[PartEvent], store: ObjectStore, *, teacher_id: str, max_bytes: int
) -> TeacherForm:
    """Store the files of the form and return what it said; what is stored when it raises is the caller's to remove.

    `max_bytes` is for all files together. Whether they make a teacher a worker says.
    """
    form = TeacherForm()
    is_named = False
    async for event in parts:
        if not isinstance(event, PartBegin):
            continue
        if event.name == NAME:
            if is_named:
                raise InvalidRequest(
                    "The form has the part 'name' twice. Send it once.", code="duplicate_part", param=NAME
                )
            is_named = True
            refuse_text_as_file(event)
            form.name = await read_text(NAME, parts)
            continue
        if event.name != FILE:
            raise InvalidRequest(
                f"{event.name[:LONGEST_FIELD]!r} is not a part of this form. Known are {FILE}, once for each file of "
                f"the teacher, and {NAME}: {_EXAMPLE}.",
                code="unknown_field",
                param=event.name[:LONGEST_FIELD],
            )
        if not event.file_name:
            await expect_nothing(event, parts, way_out=f"Send each file of the teacher under its own name: {_EXAMPLE}.")
            continue
        _check_name(event.file_name, form)
        stored = await store_file(
            event,
            parts,
            store,
            key=keys.teacher_upload(teacher_id, event.file_name),
            too_large=UploadTooLarge(max_bytes, "teacher", param=FILE),
            room_bytes=max_bytes - form.size_bytes,
            empty=InvalidRequest(
                f"{FILE} ({event.file_name!r}) is empty: 0 bytes. Send the whole file, or leave it out.",
                code="file_empty",
                param=FILE,
            ),
        )
        form.files[event.file_name] = {
            "path": event.file_name,
            "size_bytes": stored.size_bytes,
            "sha256": stored.sha256,
        }
    if not form.files:
        raise InvalidRequest(
            f"The form has no part {FILE!r}. Send each file of the teacher as one: {_EXAMPLE}.",
            code="missing_field",
            param=FILE,
        )
    return form


def _check_name(file_name: str, form: TeacherForm) -> None:
    check_plain_name(file_name, param=FILE)
    if not keys.is_segment(file_name) or not file_name.endswith(SUFFIXES):
        raise InvalidRequest(
            f"{FILE} is named {shown_name(file_name)}, which is none of a teacher's files. Send those that "
            f"`save_pretrained` writes, with names in {', '.join(SUFFIXES)}, and leave out the others; pickles are "
            "never read.",
            code="unsupported_file_type",
            param=FILE,
        )
    if file_name in form.files:
        raise InvalidRequest(
            f"The form has two files named {file_name!r}. Send each file of the teacher once.",
            code="duplicate_part",
            param=FILE,
        )
    if len(form.files) == MOST_FILES:
        raise InvalidRequest(
            f"The form has more than {MOST_FILES} files. Save the weights in larger pieces, with save_pretrained's "
            "max_shard_size, and send no other folder's files.",
            code="too_many_files",
            param=FILE,
        )
