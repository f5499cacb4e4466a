"""What the engine writes to its standard output and error, relayed into the worker's log line by line.

The engine writes to a file, not to a pipe: so it never waits for us, and a worker that hangs does not stop it. We
read the file as it grows. A chatty engine fills neither the log (so many lines a second, the size of the rest is told)
nor the disk (a file that has grown too large is emptied).
"""

import contextlib
import os
import time
from pathlib import Path

import structlog

LINES_PER_SECOND = 20.0
# A stack trace comes at once.
BURST_LINES = 200.0
LONGEST_LINE = 2000
# Of what came since the last look; of more only the end is read.
READ_BYTES = 256 * 1024
TAIL_BYTES = 16 * 1024
FILE_LIMIT_BYTES = 32 * 1024 * 1024
# How often it is said that lines were left out.
LEFT_OUT_SECONDS = 10.0

log = structlog.get_logger(__name__)


class EngineOutput:
    """Reads one engine's output. `relay` is called by one thread, `tail` by any once the engine has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._tail = b""
        # The beginning of a line whose end has not come yet.
        self._unfinished = b""
        self._allowance = BURST_LINES
        self._looked_at = time.monotonic()
        self._left_out_bytes = 0
        self._say_left_out_at = 0.0

    def relay(self, *, is_last: bool = False) -> None:
        """Log the lines that were finished since the last call; `is_last` takes an unfinished one too."""
        new = self._read()
        content = self._unfinished + new
        whole, _, self._unfinished = content.rpartition(b"\n")
        if is_last or len(self._unfinished) > LONGEST_LINE:
            whole, self._unfinished = content, b""
        self._refill()
        # A progress bar draws itself anew after each carriage return; splitlines parts these too.
        lines = [line for line in whole.splitlines() if line.strip()]
        if is_last:
            # The last words are wanted whatever was said before.
            self._allowance = BURST_LINES
            shown = lines[-int(self._allowance) :]
        else:
            shown = lines[: int(self._allowance)]
        for line in shown:
            log.info("engine_output", line=line.decode("utf-8", "replace").rstrip()[:LONGEST_LINE])
        self._allowance -= len(shown)
        self._left_out_bytes += sum(map(len, lines)) - sum(map(len, shown))
        self._say_what_was_left_out(is_last=is_last)

    def tail(self) -> str:
        """The last lines."""
        return self._tail.decode("utf-8", "replace")

    def _read(self) -> bytes:
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size - self._offset > READ_BYTES:
                self._left_out_bytes += size - READ_BYTES - self._offset
                self._unfinished, self._offset = b"", size - READ_BYTES
            file.seek(self._offset)
            content = file.read(READ_BYTES)
            self._offset += len(content)
            self._tail = (self._tail + content)[-TAIL_BYTES:]
            if self._offset > FILE_LIMIT_BYTES:
                # It writes at the end, wherever that is.
                os.truncate(self._path, 0)
                self._offset = 0
            return content
        return b""

    def _say_what_was_left_out(self, *, is_last: bool) -> None:
        if self._left_out_bytes and (is_last or time.monotonic() >= self._say_left_out_at):
            log.warning("engine_output_left_out", size_bytes=self._left_out_bytes)
            self._left_out_bytes = 0
            self._say_left_out_at = time.monotonic() + LEFT_OUT_SECONDS

    def _refill(self) -> None:
        now = time.monotonic()
        self._allowance = min(BURST_LINES, self._allowance + LINES_PER_SECOND * (now - self._looked_at))
        self._looked_at = now
