from pathlib import Path

import pytest

from worker.event_tail import EventTail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class TestRead:
    def test_gives_nothing_before_the_file_exists(self, path: Path) -> None:
        assert EventTail(path).read() == []

    def test_gives_each_event_once(self, path: Path) -> None:
        tail = EventTail(path)
        append(path, '{"type": "a"}\n{"type": "b"}\n')
        assert [event["type"] for event in tail.read()] == ["a", "b"]
        append(path, '{"type": "c"}\n')
        assert [event["type"] for event in tail.read()] == ["c"]
        assert tail.read() == []

    def test_waits_for_the_end_of_a_torn_line(self, path: Path) -> None:
        tail = EventTail(path)
        append(path, '{"type": "a"}\n{"type": "ha')
        assert [event["type"] for event in tail.read()] == ["a"]
        append(path, 'lf"}\n')
        assert [event["type"] for event in tail.read()] == ["half"]

    def test_skips_a_line_that_was_torn_for_good(self, path: Path) -> None:
        append(path, '{"type": "a", "va\n{"type": "b"}\n[1]\n{"no": "type"}\n')
        assert [event["type"] for event in EventTail(path).read()] == ["b"]
