"""Where a run's time goes, part by part, so that each part of a method can be held against the whole."""

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds of each part. A part inside another takes its time away from the outer one, so they add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = time.monotonic()

    @contextlib.contextmanager
    def on(self, part: str) -> Iterator[None]:
        self._book()
        self._open.append(part)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        now = time.monotonic()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
