import base64
from datetime import UTC, datetime

import pytest

from app.db.models import Dataset, Job, Teacher
from app.errors import BadCursor
from app.repositories.pages import decode_cursor, encode_cursor

MOMENT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


class TestDecodeCursor:
    @pytest.mark.parametrize("moment", [MOMENT, MOMENT.replace(microsecond=0)])
    def test_reads_what_was_encoded(self, moment: datetime) -> None:
        assert decode_cursor(encode_cursor(moment, "dts_demo"), Dataset) == (moment, "dts_demo")

    @pytest.mark.parametrize(
        "cursor",
        [
            "",
            "banana",
            "é",
            "====",
            "job_01abc",
            encoded("2026-03-01|job_a"),
            encoded("2026-03-01T12:00:00+02:00|job_a"),
            encoded("0001-01-01T00:00:00+14:00|job_a"),
            encoded("2026-03-01T12:00:00+00:00|"),
            encoded("2026-03-01T12:00:00+00:00|../x"),
            encoded("2026-03-01T12:00:00+00:00|job_a\x00"),
            encoded("2026-03-01 12:00:00+00:00|job_a"),
            encode_cursor(MOMENT, "job_a") + "=",
            encode_cursor(MOMENT, "job_a") + "\n",
        ],
    )
    def test_refuses_anything_else(self, cursor: str) -> None:
        with pytest.raises(BadCursor, match="is not a page cursor") as caught:
            decode_cursor(cursor, Job)
        assert (caught.value.status, caught.value.code, caught.value.param) == (422, "bad_cursor", "after")

    @pytest.mark.parametrize(("row_id", "model"), [("dts_demo", Job), ("job_a", Teacher), ("tch_demo", Dataset)])
    def test_refuses_the_cursor_of_another_list(
        self, row_id: str, model: type[Job] | type[Dataset] | type[Teacher]
    ) -> None:
        """It would go on from the time of a row that was never in this list."""
        with pytest.raises(BadCursor):
            decode_cursor(encode_cursor(MOMENT, row_id), model)
