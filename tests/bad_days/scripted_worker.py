"""A worker as operators start it, but for its engine: `python -m tests.bad_days.scripted_worker`."""

import sys

from worker import engine_process

if __name__ == "__main__":
    # Before the modules are loaded that take it over.
    engine_process.ENGINE = (sys.executable, "-m", "tests.bad_days.engine")
    from worker import celery_app, work_loop

    # It waits for less than a real one: after a failure, for its next look at the database, and for a broker that
    # answered with an error.
    celery_app.BROKER_PAUSE_SECONDS = 0.2
    work_loop.LONGEST_REST_SECONDS = 0.1
    work_loop.LOOK_SECONDS = 0.5
    from worker.__main__ import main

    main()
