"""What the parts of an upload's form become: a text, or a file that goes from the socket to object storage while it is
hashed. No temporary file, no database session.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NoReturn

import structlog

from app.errors import InvalidRequest, Unavailable, UploadTooLarge
from app.logging import first_line
from app.services.multipart import PartBegin, PartData, PartEvent
from app.storage.store import ObjectStore

LONGEST_FIELD = 200
LONGEST_FILE_NAME = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StoredPart:
    """A file that has arrived whole."""

    size_bytes: int
    sha256: str


async def read_text(name: str, parts: AsyncIterator[PartEvent]) -> str:
    """The text of the part that has just begun, of 200 characters at most."""
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


async def store_file(
    part: PartBegin,
    parts: AsyncIterator[PartEvent],
    store: ObjectStore,
    *,
    key: str,
    too_large: UploadTooLarge,
    room_bytes: int,
    empty: InvalidRequest,
) -> StoredPart:
    """Stream the file of the part that has just begun into the store.

    Raises:
        UploadTooLarge: `too_large`, where it has more than `room_bytes`.
        InvalidRequest: `empty`, where it has none.
        Unavailable: the store does not take it.
    """
    digest = hashlib.sha256()
    try:
        async with store.open_writer_async(key) as writer:
            async for data in _part_data(parts):
                if writer.size_bytes + len(data) > room_bytes:
                    raise too_large
                digest.update(data)
                await writer.write(data)
            if writer.size_bytes == 0:
                raise empty
    except OSError as error:
        # A line and no stack trace: while the store is away this comes with every upload.
        log.error("upload_not_stored", key=key, error=first_line(error))
        raise Unavailable(
            f"{part.name} ({part.file_name!r}) could not be stored: the object store does not answer, or is full. "
            "Nothing was kept; send the same request again later.",
            code="object_store_unavailable",
        ) from error
    return StoredPart(writer.size_bytes, digest.hexdigest())


async def expect_nothing(part: PartBegin, parts: AsyncIterator[PartEvent], *, way_out: str) -> None:
    """Pass over a file input that was left empty; raises InvalidRequest where something stands in it."""
    # An input without a file arrives as an empty file without a name from a browser's form, and as an empty
    # text from the documentation page.
    async for _ in _part_data(parts):
        came_as = "text" if part.file_name is None else "a file without a name"
        raise InvalidRequest(f"{part.name} came as {came_as}. {way_out}", code="not_a_file", param=part.name)


def check_plain_name(file_name: str, *, param: str) -> None:
    """Refuse a file's name that is long, has a folder in it or what cannot be printed."""
    if len(file_name) > LONGEST_FILE_NAME or not file_name.isprintable() or "/" in file_name or "\\" in file_name:
        raise InvalidRequest(
            f"{param} is a file named {shown_name(file_name)}; send a plain name of at most {LONGEST_FILE_NAME} "
            "characters, without a folder and without control characters.",
            code="bad_file_name",
            param=param,
        )


def shown_name(file_name: str) -> str:
    """A file's name for a message, cut where it is long."""
    return repr(file_name if len(file_name) <= LONGEST_FILE_NAME else f"{file_name[:LONGEST_FILE_NAME]}…")


def refuse_text_as_file(part: PartBegin) -> None:
    """Refuse a text that came as a file."""
    if part.file_name is not None:
        raise InvalidRequest(
            f"{part.name} came as a file named {part.file_name!r}. Send it as text, such as with "
            f"curl -F {part.name}=value.",
            code="not_a_text",
            param=part.name,
        )


def _refuse_text(name: str, what: str, code: str) -> NoReturn:
    raise InvalidRequest(f"{name} {what}.", code=code, param=name)


async def _part_data(parts: AsyncIterator[PartEvent]) -> AsyncIterator[bytes]:
    """The data of the part that has just begun, up to its end."""
    async for event in parts:
        if not isinstance(event, PartData):
            return
        yield event.data
