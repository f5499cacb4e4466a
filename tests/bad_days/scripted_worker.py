"""A worker as operators start it, but for its engine: `python -m tests.bad_days.scripted_worker`."""

import sys

from worker import engine_process

if __name__ == "__main__":
    # Before the modules are loaded that take it over.
    engine_process.ENGINE = (sys.executable, "-m", "tests.bad_days.engine")
    from worker import work_loop

    # It neither rests after a failure nor waits for its next look at the database for as long as a real one.
    work_loop.LONGEST_REST_SECONDS = 0.1
    work_loop.LOOK_SECONDS = 0.5
    from worker.__main__ import main

    main()
