"""A worker as operators start it, whose Celery does not get as far as listening to signals:
`python -m tests.worker.slow_worker`.
"""

import time

from celery.apps.worker import Worker


def hang(*_: object) -> None:
    # In short sleeps, as a client waits for its broker: a signal that the system hands to another thread is not acted
    # on until this one wakes.
    while True:
        time.sleep(0.1)


if __name__ == "__main__":
    Worker.install_platform_tweaks = hang
    from worker.__main__ import main

    main()
