"""A worker as operators start it, but for its engine, which is scripted, and its Celery, which does not get as far as
listening to signals: `python -m tests.worker.slow_worker`.
"""

import sys
import time

from celery.apps.worker import Worker

from worker import engine_process


def hang(*_: object) -> None:
    # In short sleeps, as a client waits for its broker: a signal that the system hands to another thread is not acted
    # on until this one wakes.
    while True:
        time.sleep(0.1)


if __name__ == "__main__":
    Worker.install_platform_tweaks = hang
    # Before the modules are loaded that take it over.
    engine_process.ENGINE = (sys.executable, "-m", "tests.worker.scripted_engine", "endless")
    from worker.__main__ import main

    main()
