"""A worker as operators start it, that rests for no longer than a moment: `python -m tests.worker.hasty_worker`."""

from worker import work_loop

if __name__ == "__main__":
    work_loop.LONGEST_REST_SECONDS = 0.1
    from worker.__main__ import main

    main()
