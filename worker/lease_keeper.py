"""Keeps a claim alive from a thread of its own, and hears there that the work is cancelled or taken away."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import structlog

from app.db.session import read_session, write_session
from app.domain.jobs import JobStatus
from app.domain.leases import Claim
from app.errors import LeaseLost
from app.logging import first_line
from app.prometheus import LEASE_RENEWALS_FAILED
from app.repositories import leases
from app.repositories.fence import lost
from app.settings import Settings
from worker.stopping import Cancelled, HandedBack, OutOfTime, Shutdown
from worker.threads import logged_thread

# How soon a cancel or a taken lease is noticed.
LOOK_SECONDS = 1.0

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews while the block lasts. `check()` says, from any thread, whether to go on.

    Only the database can take the work away: while it cannot be reached the work goes on, because the
    fence around every write keeps it harmless and the database may come back before anybody else claims. The sweep
    then leaves the time in which to renew.
    """

    def __init__(self, claim: Claim, settings: Settings, shutdown: Shutdown) -> None:
        self.claim = claim
        self._settings = settings
        self._shutdown = shutdown
        self._ended = threading.Event()
        self._lost = False
        self._cancelled_at: float | None = None
        # Somebody paused the job: to be saved, then given back.
        self.is_pausing = False
        self._run_began: float | None = None
        self._run_ended: float | None = None
        self._on_interrupt: Callable[[], None] = _nothing
        self._lock = threading.Lock()
        self._thread = logged_thread(self._keep, name=f"lease-{claim.id}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_interrupted(self) -> bool:
        """True once the work is cancelled or taken away: nothing it still does can count."""
        return self._lost or self._cancelled_at is not None

    @property
    def cancelled_seconds(self) -> float:
        """For how long it has been known that the work is cancelled; 0 while it is not."""
        return 0.0 if self._cancelled_at is None else time.monotonic() - self._cancelled_at

    @property
    def is_out_of_time(self) -> bool:
        """True once the job has used its time limit."""
        limit = self.claim.time_limit_seconds
        return limit is not None and self.run_seconds >= limit

    @property
    def run_seconds(self) -> float:
        """For how long engines have worked on the job, this claim's included. To fetch what it reads and to store what
        it made does not count: while the object store is away that takes as long as it likes."""
        if self._run_began is None:
            return self.claim.run_seconds
        ended = time.monotonic() if self._run_ended is None else self._run_ended
        return self.claim.run_seconds + ended - self._run_began

    @property
    def is_told_to_stop(self) -> bool:
        """True once the work is to be saved and left, for whichever reason."""
        return self._shutdown.is_requested or self.is_pausing or self.is_out_of_time

    def on_interrupt(self, act: Callable[[], None]) -> None:
        """Have `act` called, from the keeper's thread, as soon as the work is cancelled or taken away."""
        with self._lock:
            self._on_interrupt = act
            if self.is_interrupted:
                act()

    def begin_run(self) -> None:
        """The engine works from now on: the job's time runs."""
        self._run_began = time.monotonic()

    def end_run(self) -> None:
        """The engine has ended, and the job's time stands still."""
        self._run_ended = time.monotonic()

    def conclude(self) -> None:
        """The row says how the work ended: there is nothing left to keep."""
        self._ended.set()

    def mark_lost(self) -> None:
        """For those who learn from a refused write that the work was taken away."""
        self._interrupt(lost=True)

    def check(self) -> None:
        """Return while the work is ours and wanted. Raises LeaseLost, Cancelled, OutOfTime or HandedBack."""
        self.check_claim()
        if self.is_told_to_stop:
            self.raise_why_told()

    def raise_why_told(self) -> NoReturn:
        """Raise what `is_told_to_stop` is about: a job out of time fails, unless others want it stopped anyway."""
        if self.is_out_of_time and not self._shutdown.is_requested and not self.is_pausing:
            raise OutOfTime(self.claim.time_limit_seconds)
        raise HandedBack

    def check_until_deadline(self) -> None:
        """As `check`, but a shutdown counts only once its time is up: for saving what is finished."""
        self.check_claim()
        if self._shutdown.seconds_left <= 0:
            raise HandedBack

    def check_claim(self) -> None:
        """As `check`, whatever the worker's own end: raises LeaseLost or Cancelled."""
        self.check_not_lost()
        if self._cancelled_at is not None:
            raise Cancelled

    def check_not_lost(self) -> None:
        """For the last word on the work, a cancel's too: raises LeaseLost."""
        if self._lost:
            raise lost(self.claim)

    def _keep(self) -> None:
        next_renewal = time.monotonic() + self._settings.heartbeat_seconds
        while not self._ended.wait(min(LOOK_SECONDS, self._settings.heartbeat_seconds)):
            is_due = time.monotonic() >= next_renewal
            try:
                status = self._renew() if is_due else self._look()
            except LeaseLost:
                if self._ended.is_set():
                    return
                log.warning("lease_lost", kind=self.claim.kind, id=self.claim.id)
                self._interrupt(lost=True)
                return
            except Exception as error:  # whatever it was, the next look may work
                log.warning("lease_not_renewed", kind=self.claim.kind, id=self.claim.id, error=first_line(error))
                LEASE_RENEWALS_FAILED.inc()
                continue
            if is_due:
                next_renewal = time.monotonic() + self._settings.heartbeat_seconds
            self.is_pausing = status == JobStatus.PAUSING
            if status == JobStatus.CANCELLING and self._cancelled_at is None:
                log.info("cancel_requested", kind=self.claim.kind, id=self.claim.id)
                self._interrupt(cancelled=True)

    def _renew(self) -> str:
        with write_session(self._settings) as session:
            return leases.renew(session, self.claim, self._settings.lease_seconds, run_seconds=self.run_seconds)

    def _look(self) -> str:
        with read_session(self._settings) as session:
            return leases.read_status(session, self.claim)

    def _interrupt(self, *, lost: bool = False, cancelled: bool = False) -> None:
        with self._lock:
            self._lost = self._lost or lost
            if cancelled and self._cancelled_at is None:
                self._cancelled_at = time.monotonic()
            self._on_interrupt()


def _nothing() -> None:
    pass
