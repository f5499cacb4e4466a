"""A worker as operators start it, but for its engine, which is scripted, and its store, which never gets done with
some objects: `python -m tests.worker.stalled_worker`.

$STALLED_KEYS is what the keys of those have in common, $STALLED_PART the part that the engine plays.
"""

import os
import sys
import time
from pathlib import Path

from app.storage.store import ObjectStore
from worker import engine_process


def stall(name: str) -> None:
    """Have a method of the store, which takes a key and a path, never return for those objects."""
    real = getattr(ObjectStore, name)

    def call(self: ObjectStore, key: str, path: Path) -> int:
        if os.environ["STALLED_KEYS"] in key:
            print(f"stalled: {key}", file=sys.stderr, flush=True)
            time.sleep(600)
        return int(real(self, key, path))

    setattr(ObjectStore, name, call)


if __name__ == "__main__":
    stall("put_file")
    stall("get_file")
    # Before the modules are loaded that take it over.
    engine_process.ENGINE = (sys.executable, "-m", "tests.worker.scripted_engine", os.environ["STALLED_PART"])
    from worker.__main__ import main

    main()
