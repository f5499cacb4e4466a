"""A worker as operators start it, that neither rests nor waits with its next look at the database for longer than a
moment: `python -m tests.worker.hasty_worker`.
"""

from worker import work_loop

if __name__ == "__main__":
    work_loop.LONGEST_REST_SECONDS = 0.1
    work_loop.LOOK_SECONDS = 0.5
    from worker.__main__ import main

    main()
