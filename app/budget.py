"""The time that one part of the sweep may take, so that those who wait for the others do not wait for it."""

import threading
import time
from typing import Self


class Budget:
    """`seconds` from now on, or until `stopped` is set."""

    def __init__(self, seconds: float, stopped: threading.Event) -> None:
        self._seconds = seconds
        self._stopped = stopped
        self._ends_at = time.monotonic() + seconds

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def is_used_up(self) -> bool:
        return self.is_stopped or time.monotonic() >= self._ends_at

    def again(self) -> Self:
        """As much time once more, from now on."""
        return type(self)(self._seconds, self._stopped)
