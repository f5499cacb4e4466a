"""Reads the engine's events.jsonl while it is written."""

import json
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class EventTail:
    """Each `read` returns the events of the lines that were finished since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """New events in order. A last line without its end stays for the next time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := self._parse(line)) is not None]

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            event = json.loads(line)
        except ValueError:
            # A kill tore it; the engine closed it when it went on.
            log.warning("event_line_skipped", line=line[:200])
            return None
        return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None
