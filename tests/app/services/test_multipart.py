import asyncio
from collections.abc import AsyncIterator

import pytest

from app.errors import BadRequest
from app.services.multipart import NotAForm, PartBegin, PartData, read_parts

FORM = (
    b"--frontier\r\n"
    b'Content-Disposition: form-data; name="label_column"\r\n\r\nkind\r\n'
    b"--frontier\r\n"
    b'content-disposition: form-data; name="train"; filename="t\xc3\xa4.csv"\r\nContent-Type: text/csv\r\n\r\n'
    b"a\r\n--front\r\n--frontie\r\n"
    b"--frontier--\r\n"
)
TYPE = "multipart/form-data; boundary=frontier"


def read(content: bytes, *, size: int = 10**6, content_type: str = TYPE) -> list[tuple[str, str | None, bytes]]:
    """The parts of a form that arrives in chunks of `size`: name, file name, data."""

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    async def run() -> list[tuple[str, str | None, bytes]]:
        parts: list[tuple[str, str | None, bytes]] = []
        async for event in read_parts(content_type, body(), example_part="train"):
            if isinstance(event, PartBegin):
                parts.append((event.name, event.file_name, b""))
            elif isinstance(event, PartData):
                name, file_name, data = parts[-1]
                parts[-1] = (name, file_name, data + event.data)
        return parts

    return asyncio.run(run())


class TestReadParts:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10**6])
    def test_gives_the_same_however_the_form_is_cut(self, size: int) -> None:
        assert read(FORM, size=size) == [
            ("label_column", None, b"kind"),
            ("train", "tä.csv", b"a\r\n--front\r\n--frontie"),
        ]

    def test_accepts_a_quoted_boundary(self) -> None:
        assert len(read(FORM, content_type='Multipart/Form-Data; charset=utf-8; boundary="frontier"')) == 2

    @pytest.mark.parametrize("end", range(1, len(FORM) - 4, 7))
    def test_refuses_a_form_that_is_cut_off(self, end: int) -> None:
        with pytest.raises(BadRequest) as caught:
            read(FORM[:end])
        assert caught.value.code == "broken_multipart"

    def test_refuses_a_header_without_end(self) -> None:
        with pytest.raises(BadRequest, match="broken after 0 bytes"):
            read(b"--frontier\r\nX-Long: " + b"x" * 100_000)

    @pytest.mark.parametrize("content_type", ["", "text/csv", "application/x-www-form-urlencoded"])
    def test_refuses_another_content_type(self, content_type: str) -> None:
        with pytest.raises(NotAForm):
            read(FORM, content_type=content_type)
