"""`stillhouse scheduler`: the process of a cluster that sweeps and applies the retention.

One is enough; several do no harm. The sweep runs in a thread. The main thread waits for the signal to stop and
watches that the sweep gets round: one that hangs for good ends the process, so that whatever started it starts it
again. A sweep that fails is no reason to end: the database or the store will be back.
"""

import signal
import threading
import time

import structlog

from app import exposition
from app.db.session import dispose_engines
from app.logging import configure_logging
from app.settings import Settings
from app.sweep import sweep_until

# A step of a sweep waits for a minute at the most for a store that does not answer, and then the sweep fails and
# has got round. Against a slow one it stops after some seconds, but for what it has begun and for listing the cache;
# nothing of that is lost when it is begun again.
STUCK_SECONDS = 900.0
TICK_SECONDS = 0.1

log = structlog.get_logger(__name__)


class Pulse(threading.Event):
    """Tells the sweep to stop, and knows when it last got round to asking."""

    def __init__(self) -> None:
        super().__init__()
        self.last_asked = time.monotonic()

    def wait(self, timeout: float | None = None) -> bool:
        self.last_asked = time.monotonic()
        is_stopped = super().wait(timeout)
        self.last_asked = time.monotonic()
        return is_stopped


def run(settings: Settings, *, stuck_seconds: float = STUCK_SECONDS) -> bool:
    """Sweep until SIGTERM or SIGINT; True after an orderly end, False when the sweep hung."""
    is_told_to_stop = False

    def stop(*_: object) -> None:
        # Nothing but a flag: a handler that takes a lock could wait for the code that it interrupted.
        nonlocal is_told_to_stop
        is_told_to_stop = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    configure_logging(settings, service="scheduler")
    exposition.serve(settings, "scheduler")
    stopped = Pulse()
    sweep = threading.Thread(target=sweep_until, args=(stopped, settings), name="sweep", daemon=True)
    sweep.start()
    log.info("scheduler_started", sweep_seconds=settings.sweep_seconds)
    while not is_told_to_stop:
        time.sleep(TICK_SECONDS)
        seconds = time.monotonic() - stopped.last_asked
        if seconds > stuck_seconds + settings.sweep_seconds or not sweep.is_alive():
            log.critical("sweep_stuck", seconds=round(seconds), is_alive=sweep.is_alive())
            return False
    log.info("scheduler_stopping")
    stopped.set()
    # What a sweep did not finish, the next one does.
    sweep.join(settings.shutdown_seconds)
    dispose_engines()
    log.info("scheduler_stopped", is_sweep_finished=not sweep.is_alive())
    return True
