"""Looks for work and does it, one piece at a time, whether a message came or not.

Two callers share it: the Celery task, at once when a message arrives, and a thread that looks at the start
and every few seconds. The thread makes a worker independent of the broker: with Redis down, or a message
swallowed by a worker that was busy, waiting work is found all the same. The sweep's wake-ups are the same
safety over the broker; this one needs only the database, without which nothing works anyway.
"""

import os
import socket
import threading
from collections.abc import Sequence

import structlog

from app.db.session import write_session
from app.domain.leases import Claim
from app.logging import first_line
from app.outages import is_database_behind, is_transient
from app.repositories import leases
from app.settings import Settings
from app.tracing import stop_tracing
from worker.distill import exit_codes
from worker.distill.errors import DeviceLost
from worker.engine_process import ENGINE
from worker.failures import Failure
from worker.runner import run_claim
from worker.stopping import Shutdown
from worker.workspace import remove_dead_runs

LOOK_SECONDS = 5.0
# When the database does not answer.
PAUSE_SECONDS = 2.0
LONGEST_REST_SECONDS = 60.0
# Failures that a worker's machine may be to blame for: its disk, its device, its installation, its network.
_FAULTS = frozenset({"disk_full", "engine_died", "internal_error", "storage_unavailable", DeviceLost.code})

log = structlog.get_logger(__name__)


class WorkLoop:
    """One worker's loop. `run_until_idle` may be called from several threads; one at a time works."""

    def __init__(self, settings: Settings, *, engine: Sequence[str] = ENGINE) -> None:
        self.shutdown = Shutdown(settings.shutdown_seconds)
        self.worker_name = f"{socket.gethostname()}-{os.getpid()}"
        self._settings = settings
        self._engine = engine
        self._turn = threading.Lock()
        self._faults = 0  # one after the other

    def start_looking(self) -> None:
        """Remove what dead workers left, then look for work every few seconds, from a thread."""
        threading.Thread(target=self._look, name="look-for-work", daemon=True).start()

    def wait_until_stopped(self, seconds: float) -> bool:
        """After `shutdown.request`: wait until no work is in hand; False when that takes too long."""
        if not self._turn.acquire(timeout=seconds):
            return False
        self._turn.release()
        return True

    def run_until_idle(self) -> int:
        """Claim and do work until none waits or the worker stops; returns how many pieces were done."""
        with self._turn:
            done = 0
            while not self.shutdown.is_requested and (claim := self._claim()) is not None:
                failure = run_claim(claim, self._settings, self.shutdown, engine=self._engine)
                done += 1
                if failure is not None and failure.code == DeviceLost.code and self._settings.engine_device == "cuda":
                    self._leave_without_device(failure)
                else:
                    self._rest_after(failure)
            return done

    def _rest_after(self, failure: Failure | None) -> None:
        """Leave the work to other workers for a while where this one may be what is broken: it would fail all that
        waits, and faster than they succeed."""
        self._faults = self._faults + 1 if failure is not None and failure.code in _FAULTS else 0
        if self._faults:
            seconds = min(2.0**self._faults, LONGEST_REST_SECONDS)
            log.warning("worker_rests", code=failure.code if failure else "", faults=self._faults, seconds=seconds)
            self.shutdown.wait(seconds)

    def _leave_without_device(self, failure: Failure) -> None:
        """Leave the work to other workers for a while, then end the process, with nothing in hand: a container that has
        lost its GPU gets it back by being started anew."""
        log.error("worker_leaves", code=failure.code, error=failure.message, seconds=LONGEST_REST_SECONDS)
        # Else one that is started anew at once, and finds no GPU again, fetches jobs only to hand them back.
        if not self.shutdown.wait(LONGEST_REST_SECONDS):
            stop_tracing()
            os._exit(exit_codes.NO_DEVICE)

    def _claim(self) -> Claim | None:
        try:
            with write_session(self._settings) as session:
                return leases.claim_next(
                    session, worker_name=self.worker_name, lease_seconds=self._settings.lease_seconds
                )
        except Exception as error:
            if not is_transient(error):
                raise
            if is_database_behind(error):
                log.warning("database_not_migrated", error=first_line(error), advice="run `stillhouse migrate`")
            else:
                log.warning("database_unreachable", error=first_line(error))
            self.shutdown.wait(PAUSE_SECONDS)
            return None

    def _look(self) -> None:
        try:
            remove_dead_runs(self._settings.work_dir)
        except OSError as error:
            log.warning("dead_runs_not_removed", error=str(error))
        while True:
            try:
                self.run_until_idle()
            except Exception:
                log.exception("look_for_work_failed")
            if self.shutdown.wait(LOOK_SECONDS):
                return
