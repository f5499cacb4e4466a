"""A worker as operators start it, but for its engine: `python -m tests.bad_days.scripted_worker`."""

import sys

from worker import engine_process

if __name__ == "__main__":
    # Before the modules are loaded that take it over.
    engine_process.ENGINE = (sys.executable, "-m", "tests.bad_days.engine")
    from worker.__main__ import main

    main()
