"""A Celery transport over a folder: kombu's ``filesystem`` transport with whole messages.

kombu writes a message into its final file, where a consumer can meet it half-written, and takes messages by
moving them to the machine's temporary folder, which may be another file system. Here both are one rename inside
the queue's own folder, so a message is read once and whole, or not at all.

Nothing is synced: a message is a hint, and what a power cut tears is passed over.
"""

import contextlib
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual
from kombu.utils.json import dumps, loads

SCHEME = "stillhouse-folder"
# Nobody takes so long to write a message, or to read one.
_LEFT_SECONDS = 60.0


class Channel(filesystem.Channel):
    # For fanout kombu keeps which queue hangs on which exchange in a file, and a torn one would stop every sender and
    # every worker for good. The one queue here is found by its name, so each process may keep that for itself.
    supports_fanout = False
    get_table = virtual.Channel.get_table

    def basic_consume(self, queue: str, *args: Any, **options: Any) -> None:
        # A worker begins to listen: what those that were killed left goes.
        with contextlib.suppress(OSError):  # it is in nobody's way
            _remove_left(Path(self.data_folder_in))
        super().basic_consume(queue, *args, **options)

    # kombu itself names the second parameter in two ways.
    def _put(self, queue: str, payload: dict[str, Any], **_options: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        name = f"{time.time_ns()}_{uuid.uuid4().hex}"
        aside = folder / f"{name}.{queue}.part"
        try:
            aside.write_text(dumps(payload), encoding="utf-8")
            aside.rename(folder / f"{name}.{queue}.msg")
        finally:
            aside.unlink(missing_ok=True)  # of a message for which the disk had no room

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002 - never waits
        folder = Path(self.data_folder_in)
        for name in sorted(os.listdir(folder)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = folder / f"{name}.taken-{uuid.uuid4().hex}"
            try:
                (folder / name).rename(taken)
                text = taken.read_bytes()
            except FileNotFoundError:
                continue  # another consumer was faster; or we were frozen, and this passed for a dead one's
            taken.unlink(missing_ok=True)
            try:
                return loads(text)
            except ValueError:
                continue
        raise Empty


def _remove_left(folder: Path) -> None:
    """Remove messages that were being written or read long ago."""
    for path in folder.iterdir():
        if path.suffix != ".part" and ".taken-" not in path.name:
            continue
        with contextlib.suppress(FileNotFoundError):
            # The time of the rename, not that of the message, which may have waited for long before it was taken.
            if time.time() - path.stat().st_ctime >= _LEFT_SECONDS:
                path.unlink()


class Transport(filesystem.Transport):
    implements = filesystem.Transport.implements.extend(exchange_type=frozenset({"direct", "topic"}))
    Channel = Channel


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"
