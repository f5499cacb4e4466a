"""The engine's only voice: one JSON object per line, appended to RUN_DIR/events.jsonl.

The worker tails the file while the engine runs, so each line is flushed whole.
"""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events; a torn last line left by a kill is closed before the next event."""

    def __init__(self, path: Path) -> None:
        needs_newline = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
        self._file = path.open("a", encoding="utf-8")
        if needs_newline:
            self._file.write("\n")

    def emit(self, event_type: str, **payload: Any) -> None:
        event = {"type": event_type, "time": datetime.now(UTC).isoformat(), **_finite(payload)}
        self._file.write(json.dumps(event, allow_nan=False) + "\n")
        self._file.flush()

    def metric(self, series: str, step: int, value: float) -> None:
        self.emit("metric", series=series, step=step, value=value)

    def close(self) -> None:
        self._file.close()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: a value that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
