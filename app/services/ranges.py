"""The Range header of a download (RFC 9110, section 14): one range of bytes, or the whole."""

import re

from app.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes= *([0-9]{0,18})-([0-9]{0,18}) *", re.IGNORECASE)


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The asked range as (start, end), `end` excluded; None for the whole file.

    What is not one well-formed range of bytes is ignored, as the standard allows: the answer is the whole.
    Raises RangeNotSatisfiable when the range holds no byte of the file.
    """
    match = _ONE_RANGE.fullmatch(header) if header else None
    if match is None or header is None:
        return None
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < int(first):
            return None
    elif last:
        start, end = max(size_bytes - int(last), 0), size_bytes
    else:
        return None
    if start >= end:
        raise RangeNotSatisfiable(header, size_bytes)
    return start, end
