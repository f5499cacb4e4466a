"""A worker as operators start it, but that never looks for work by itself: what it does, a message has brought.
`python -m tests.worker.hearing_worker`.
"""

from worker.work_loop import WorkLoop


def never(self: WorkLoop) -> None:
    pass


if __name__ == "__main__":
    WorkLoop.start_looking = never  # type: ignore[method-assign]
    from worker.__main__ import main

    main()
