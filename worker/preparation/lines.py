"""Lines of an uploaded text file, decoded and checked while they stream.

Nothing here trusts the file: it may be binary under a text name, another encoding, one endless
line, or a small gzip that unpacks to a disk full of zeros.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from worker.preparation.errors import PreparationFailed, Tick

# Longer than any text a classifier reads; it bounds the memory that a file without line ends can take.
MAX_LINE_CHARACTERS = 8 * 1024 * 1024
# Of one file, blank lines and empty rows too: they take no room in a compressed file, but time to read. What is kept of
# each row, and sorted to find repeats, has to fit a worker's memory.
MAX_ROWS = 30_000_000
# What is read between two ticks, whatever it holds.
TICK_CHARACTERS = 1024 * 1024

_MAGIC = {
    b"PAR1": "a Parquet file: give it the suffix .parquet",
    b"\x1f\x8b": "gzip-compressed: add .gz to its name",
    b"PK\x03\x04": "a zip archive or a spreadsheet: export the sheet as CSV",
    b"%PDF": "a PDF",
}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Upload:
    """One uploaded file: the split it stands for, its name as messages show it, and where it lies."""

    split: str
    name: str
    path: Path

    @property
    def is_gzip(self) -> bool:
        return self.name.lower().endswith(".gz")

    @property
    def format(self) -> str:
        """The suffix that says how to read the file, without the dot and without .gz."""
        name = self.name.lower().removesuffix(".gz")
        return name.rsplit(".", 1)[-1] if "." in name else ""


def text_lines(upload: Upload, *, max_bytes: int, tick: Tick) -> Iterator[str]:
    """Yield the file's lines with their line ends; the n-th line yielded is line n of the file.

    `max_bytes` bounds what a compressed file may unpack to (counted in characters, close enough). `tick` is called
    every TICK_CHARACTERS, whether or not the reader makes rows of the lines.
    """
    with upload.path.open("rb") as raw:
        binary = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if upload.is_gzip else raw
        try:
            buffered = io.BufferedReader(cast(io.RawIOBase, binary), buffer_size=1 << 16)
            _sniff(upload, buffered.peek(4096)[:4096])
            yield from _decoded_lines(upload, buffered, max_bytes, tick)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise PreparationFailed(
                "dataset_bad_gzip",
                f"{upload.name} is not a whole gzip file ({error}). "
                "Compress it again and upload it again, or upload it uncompressed without .gz in its name.",
            ) from None


def _sniff(upload: Upload, head: bytes) -> None:
    if head.startswith(_UTF16_MARKS):
        raise PreparationFailed(
            "dataset_not_utf8",
            f"{upload.name} is UTF-16, line 1 begins with its byte order mark. Save it as UTF-8 and upload it again.",
        )
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise PreparationFailed("dataset_binary", f"{upload.name} is not text; it looks like {what}.")
    # An image is not UTF-8 either, but that it be saved as UTF-8 would be no help.
    if b"\0" in head:
        raise _binary(upload, head.count(b"\n", 0, head.index(b"\0")) + 1)


def _decoded_lines(upload: Upload, buffered: IO[bytes], max_bytes: int, tick: Tick) -> Iterator[str]:
    # surrogateescape keeps a bad byte in place, so that the error can name the line it is on.
    text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")
    number, characters, ticked = 0, 0, 0
    while line := text.readline(MAX_LINE_CHARACTERS):
        number += 1
        characters += len(line)
        if characters - ticked >= TICK_CHARACTERS:
            ticked = characters
            tick()
        if len(line) == MAX_LINE_CHARACTERS:
            raise PreparationFailed(
                "dataset_binary",
                f"Line {number} of {upload.name} is longer than {MAX_LINE_CHARACTERS} characters; "
                "a dataset has one row per line. Check that the file has line ends.",
            )
        if characters > max_bytes:
            raise too_large(upload, f"unpacks to more than {max_bytes} bytes (line {number})")
        if number > MAX_ROWS:
            raise too_large(upload, f"has more than {MAX_ROWS} lines")
        _check_characters(upload, number, line)
        yield line


def too_large(upload: Upload, what: str) -> PreparationFailed:
    """The failure of a file that is larger than is taken; `what` says in what, such as "has more than 5 lines"."""
    return PreparationFailed("dataset_too_large", f"{upload.name} {what}. Upload a smaller sample.")


def _check_characters(upload: Upload, number: int, line: str) -> None:
    # Any other control character is one of the text: office programs break lines with U+000B, mails have others.
    if "\0" in line:
        raise _binary(upload, number)
    if line.isascii():
        return
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) & 0xFF
        raise PreparationFailed(
            "dataset_not_utf8",
            f"Line {number} of {upload.name} is not UTF-8: byte 0x{byte:02x} at character {error.start + 1}. "
            "Save the file as UTF-8 and upload it again.",
        ) from None


def _binary(upload: Upload, number: int) -> PreparationFailed:
    return PreparationFailed(
        "dataset_binary",
        f"{upload.name} is not text: byte 0x00 on line {number}. "
        "Upload CSV, TSV, JSONL (plain or gzip) or Parquet under its own suffix.",
    )
