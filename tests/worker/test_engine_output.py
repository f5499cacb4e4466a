"""The engine's words in the worker's log: all of a quiet engine's, some of a chatty one's."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from worker import engine_output
from worker.engine_output import BURST_LINES, FILE_LIMIT_BYTES, LONGEST_LINE, READ_BYTES, TAIL_BYTES, EngineOutput


class Engine:
    """Writes as a process does whose standard output is the file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def say(self, text: str) -> None:
        self._file.write(text.encode())

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    with contextlib.closing(Engine(path)) as engine:
        yield engine


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is: no line more than the first burst."""
    monkeypatch.setattr(engine_output, "LINES_PER_SECOND", 0.0)


def relayed(output: EngineOutput, *, is_last: bool = False) -> list[str]:
    return [entry["line"] for entry in entries(output, is_last=is_last) if entry["event"] == "engine_output"]


def entries(output: EngineOutput, *, is_last: bool = False) -> list[Any]:
    with capture_logs() as logs:
        output.relay(is_last=is_last)
    return list(logs)


class TestLines:
    def test_come_once_and_whole(self, engine: Engine, path: Path) -> None:
        output = EngineOutput(path)
        engine.say("one\ntwo\nthr")
        assert relayed(output) == ["one", "two"]
        assert relayed(output) == []
        engine.say("ee\n\n  \nfour")
        assert relayed(output) == ["three"]
        assert relayed(output, is_last=True) == ["four"]
        assert relayed(output, is_last=True) == []

    def test_of_a_progress_bar_stand_apart(self, engine: Engine, path: Path) -> None:
        output = EngineOutput(path)
        engine.say("10%\r20%\r30%\n")
        assert relayed(output) == ["10%", "20%", "30%"]

    def test_that_never_end_and_are_no_text_do_no_harm(self, engine: Engine, path: Path) -> None:
        output = EngineOutput(path)
        engine.say("x" * (3 * LONGEST_LINE))
        assert relayed(output) == ["x" * LONGEST_LINE]
        path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
        assert relayed(output) == ["\ufffd\ufffd"]

    def test_are_none_where_there_is_no_file(self, path: Path) -> None:
        output = EngineOutput(path)
        assert entries(output, is_last=True) == []
        assert output.tail() == ""


@pytest.mark.usefixtures("no_refill")
class TestChattyEngine:
    def test_does_not_flood_the_log_and_its_last_words_come_all_the_same(self, engine: Engine, path: Path) -> None:
        output = EngineOutput(path)
        line = "y" * 20
        for _ in range(3):
            engine.say(f"{line}\n" * 2000)
        first = entries(output)
        assert len(first) == BURST_LINES + 1
        assert first[-1]["event"] == "engine_output_left_out"
        assert first[-1]["size_bytes"] == (6000 - BURST_LINES) * len(line)
        engine.say(f"{line}\n" * 2000)
        assert entries(output) == []
        engine.say(f"{line}\n" * 2000 + "Segmentation fault\n")
        last = entries(output, is_last=True)
        assert len(last) == BURST_LINES + 1
        assert last[-2]["line"] == "Segmentation fault"
        assert last[-1]["size_bytes"] > 0

    def test_is_read_from_its_end_where_it_wrote_too_much_to_read(self, engine: Engine, path: Path) -> None:
        output = EngineOutput(path)
        engine.say("z" * 99 + "\n")
        relayed(output)
        engine.say(("z" * 99 + "\n") * (4 * READ_BYTES // 100) + "the end\n")
        relayed(output)
        assert output.tail().endswith("the end\n")
        assert len(output.tail()) == TAIL_BYTES

    def test_does_not_fill_the_disk(self, engine: Engine, path: Path) -> None:
        output = EngineOutput(path)
        size = 0
        while size <= FILE_LIMIT_BYTES:
            engine.say("z" * 1_000_000 + "\n")
            size += 1_000_001
            relayed(output)
        engine.say("still here\n")
        assert os.path.getsize(path) < FILE_LIMIT_BYTES // 2
        assert relayed(output, is_last=True) == ["still here"]
