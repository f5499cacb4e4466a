"""A worker as operators start it, that begins an import and goes on with it once the file $HELD_UNTIL is there:
`python -m tests.worker.held_worker`.
"""

import os
import time
from pathlib import Path

from worker import imports
from worker.work import Work

run_import = imports.run_import


def run_when_let(work: Work) -> None:
    while not Path(os.environ["HELD_UNTIL"]).exists():
        time.sleep(0.02)
    run_import(work)


if __name__ == "__main__":
    imports.run_import = run_when_let
    from worker.__main__ import main

    main()
