"""Receives the form of POST /datasets: files go from the socket to object storage while they are hashed.

No temporary file, no database session. Parts come in any order.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NoReturn

import structlog

from app.errors import InvalidRequest, Unavailable, UploadTooLarge
from app.logging import first_line
from app.services.multipart import PartBegin, PartData, PartEvent
from app.services.upload_files import check_file_name
from app.storage import keys
from app.storage.store import ObjectStore

log = structlog.get_logger(__name__)

SPLITS = ("train", "validation", "test", "unlabelled")
FIELDS = ("name", "text_column", "text_pair_column", "label_column")
LONGEST_FIELD = 200


@dataclass(frozen=True)
class StoredUpload:
    """A file that has arrived whole."""

    split: str
    file_name: str
    object_key: str
    size_bytes: int
    sha256: str


@dataclass
class ReceivedForm:
    fields: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, StoredUpload] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(upload.size_bytes for upload in self.uploads.values())


async def receive_form(
    parts: AsyncIterator[PartEvent], store: ObjectStore, *, dataset_id: str, max_bytes: int
) -> ReceivedForm:
    """Store the files of the form and return what it said; what is stored when it raises is the caller's to remove.

    `max_bytes` is for all files together, as they are sent (compressed, where they are).
    """
    form = ReceivedForm()
    seen: set[str] = set()
    async for event in parts:
        if not isinstance(event, PartBegin):
            continue
        _check_part(event, seen)
        if event.name in FIELDS:
            text = await _read_text(event.name, parts)
            if text:
                form.fields[event.name] = text
            continue
        upload = await _store_file(
            event, parts, store, dataset_id=dataset_id, max_bytes=max_bytes, received_bytes=form.size_bytes
        )
        if upload is not None:
            form.uploads[event.name] = upload
    if "train" not in form.uploads:
        raise InvalidRequest(
            "The form has no file 'train'. Add it, such as with curl -F train=@train.csv.",
            code="missing_field",
            param="train",
        )
    return form


def _check_part(part: PartBegin, seen: set[str]) -> None:
    if part.name not in SPLITS and part.name not in FIELDS:
        raise InvalidRequest(
            f"{part.name[:LONGEST_FIELD]!r} is not a part of this form. Known are the files {', '.join(SPLITS)} "
            f"and the texts {', '.join(FIELDS)}.",
            code="unknown_field",
            param=part.name[:LONGEST_FIELD],
        )
    if part.name in seen:
        raise InvalidRequest(
            f"The form has the part {part.name!r} twice. Send it once; put all rows of a split into one file.",
            code="duplicate_part",
            param=part.name,
        )
    seen.add(part.name)
    if part.name in FIELDS and part.file_name is not None:
        raise InvalidRequest(
            f"{part.name} came as a file named {part.file_name!r}. Send it as text, such as with "
            f"curl -F {part.name}=value.",
            code="not_a_text",
            param=part.name,
        )


async def _read_text(name: str, parts: AsyncIterator[PartEvent]) -> str:
    value = b""
    async for data in _part_data(parts):
        value += data
        if len(value) > 4 * LONGEST_FIELD:
            _refuse_text(name, f"is longer than {LONGEST_FIELD} characters; send a shorter one", "out_of_range")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_text(name, f"is not UTF-8 (byte 0x{value[error.start]:02x}); send UTF-8", "body_not_utf8")
    if len(text) > LONGEST_FIELD:
        _refuse_text(name, f"has {len(text)} characters; send {LONGEST_FIELD} or fewer", "out_of_range")
    if "\x00" in text:
        _refuse_text(name, "holds a zero byte; leave it out", "wrong_form")
    return text


def _refuse_text(name: str, what: str, code: str) -> NoReturn:
    raise InvalidRequest(f"{name} {what}.", code=code, param=name)


async def _store_file(
    part: PartBegin,
    parts: AsyncIterator[PartEvent],
    store: ObjectStore,
    *,
    dataset_id: str,
    max_bytes: int,
    received_bytes: int,
) -> StoredUpload | None:
    """Stream one file into the store; None for a file input that was left empty."""
    if not part.file_name:
        await _expect_nothing(part, parts)
        return None
    suffix = check_file_name(part.file_name, param=part.name)
    key = keys.dataset_upload(dataset_id, part.name, suffix)
    digest = hashlib.sha256()
    try:
        async with store.open_writer_async(key) as writer:
            async for data in _part_data(parts):
                if received_bytes + writer.size_bytes + len(data) > max_bytes:
                    raise UploadTooLarge(max_bytes, param=part.name)
                digest.update(data)
                await writer.write(data)
            if writer.size_bytes == 0:
                raise InvalidRequest(
                    f"{part.name} ({part.file_name!r}) is empty: 0 bytes. Send a file with rows.",
                    code="dataset_empty",
                    param=part.name,
                )
    except OSError as error:
        # A line and no stack trace: while the store is away this comes with every upload.
        log.error("upload_not_stored", key=key, error=first_line(error))
        raise Unavailable(
            f"{part.name} ({part.file_name!r}) could not be stored: the object store does not answer, or is full. "
            "Nothing was kept; send the same request again later.",
            code="object_store_unavailable",
        ) from error
    return StoredUpload(part.name, part.file_name, key, writer.size_bytes, digest.hexdigest())


async def _expect_nothing(part: PartBegin, parts: AsyncIterator[PartEvent]) -> None:
    # An input without a file arrives as an empty file without a name from a browser's form, and as an empty
    # text from the documentation page.
    async for _ in _part_data(parts):
        came_as = "text" if part.file_name is None else "a file without a name"
        raise InvalidRequest(
            f"{part.name} came as {came_as}. Send it as a file whose name tells its format, such as with "
            f"curl -F {part.name}=@{part.name}.csv.",
            code="not_a_file",
            param=part.name,
        )


async def _part_data(parts: AsyncIterator[PartEvent]) -> AsyncIterator[bytes]:
    """The data of the part that has just begun, up to its end."""
    async for event in parts:
        if not isinstance(event, PartData):
            return
        yield event.data
