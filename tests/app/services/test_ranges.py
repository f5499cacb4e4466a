import pytest

from app.errors import RangeNotSatisfiable
from app.services.ranges import parse_range


class TestParseRange:
    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (None, None),
            ("", None),
            ("bytes=0-", (0, 10)),
            ("bytes=0-0", (0, 1)),
            ("BYTES=3-4", (3, 5)),
            ("bytes= 3-4 ", (3, 5)),
            ("bytes=9-100", (9, 10)),
            ("bytes=-3", (7, 10)),
            ("bytes=-30", (0, 10)),
            ("bytes=-", None),
            ("bytes=4-3", None),
            ("bytes=0-1,3-4", None),
            ("bytes=a-b", None),
            ("bytes=１-２", None),
            ("items=0-1", None),
            ("bytes=0-99999999999999999999999", None),
        ],
    )
    def test_reads_one_range_and_ignores_the_rest(self, header: str | None, expected: tuple[int, int] | None) -> None:
        assert parse_range(header, 10) == expected

    @pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0"])
    def test_refuses_a_range_without_a_byte(self, header: str) -> None:
        with pytest.raises(RangeNotSatisfiable) as caught:
            parse_range(header, 10)
        assert caught.value.headers == {"Content-Range": "bytes */10"}

    def test_finds_no_byte_in_an_empty_file(self) -> None:
        with pytest.raises(RangeNotSatisfiable):
            parse_range("bytes=0-", 0)
