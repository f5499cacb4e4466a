"""Reads a multipart form while it arrives: parts come out in order, their data in chunks, nothing is kept.

The framework's own form parser spools every file to a temporary file before a route sees it; here a file of
any size passes through in chunks of what the socket delivered.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import BadRequest, InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

HOW_TO_SEND = "Send the form as curl -F or a browser does, whole and with its last boundary."


class NotAForm(InvalidRequest):
    status: ClassVar[int] = 415
    default_code: ClassVar[str] = "unsupported_media_type"


@dataclass(frozen=True)
class PartBegin:
    name: str
    # None on a text part, "" on a file input that was left empty.
    file_name: str | None


@dataclass(frozen=True)
class PartData:
    data: bytes


@dataclass(frozen=True)
class PartEnd:
    pass


PartEvent = PartBegin | PartData | PartEnd


async def read_parts(content_type: str, body: AsyncIterator[bytes], *, example_part: str) -> AsyncGenerator[PartEvent]:
    """Yield what the form holds; raise BadRequest when it is torn, NotAForm when it is none, which names a part that it
    should have."""
    reader = _Reader(_boundary(content_type, example_part))
    async for chunk in body:
        for event in reader.feed(chunk):
            yield event
    if not reader.is_complete:
        raise BadRequest(
            f"The multipart form ends after {reader.received_bytes} bytes, before its last boundary. {HOW_TO_SEND}",
            code="broken_multipart",
        )


def _boundary(content_type: str, example_part: str) -> bytes:
    media_type, options = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise NotAForm(
            f"The body came as Content-Type {content_type!r}; send multipart/form-data with the part {example_part!r}.",
            param="Content-Type",
        )
    boundary = options.get(b"boundary", b"")
    # The parser finds boundaries by their carriage return, which a real one cannot hold.
    if not boundary or len(boundary) > 70 or b"\r" in boundary:
        raise BadRequest(
            f"Content-Type {content_type!r} names no usable boundary. {HOW_TO_SEND}",
            code="broken_multipart",
            param="Content-Type",
        )
    return boundary


class _Reader:
    """Turns the push parser's callbacks into a list of events for each chunk."""

    def __init__(self, boundary: bytes) -> None:
        self.is_complete = False
        self.received_bytes = 0
        self._events: list[PartEvent] = []
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, chunk: bytes) -> list[PartEvent]:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadRequest(
                f"The multipart form is broken after {self.received_bytes} bytes ({error}). {HOW_TO_SEND}",
                code="broken_multipart",
            ) from None
        self.received_bytes += len(chunk)
        events, self._events = self._events, []
        return events

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise BadRequest(
                f"A part of the form has no name in its Content-Disposition. {HOW_TO_SEND}",
                code="broken_multipart",
            )
        file_name = options.get(b"filename")
        self._events.append(
            PartBegin(_decoded(options[b"name"]), file_name=None if file_name is None else _decoded(file_name))
        )

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _on_part_end(self) -> None:
        self._events.append(PartEnd())

    def _on_end(self) -> None:
        self.is_complete = True


def _decoded(name: bytes) -> str:
    # Browsers and curl send UTF-8; anything else only has to come out as something printable.
    return name.decode("utf-8", "replace")
