"""The last write on a claim: it says how the work ended, and whoever had it has it no more."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app import queue
from app.db.session import write_session
from app.domain.attempts import AttemptOutcome
from app.domain.leases import Claim
from app.errors import LeaseLost
from app.repositories import cleanups, imports, jobs, leases
from app.repositories.attempts import AttemptEnd
from app.repositories.fence import lost
from app.settings import Settings
from app.storage import keys
from worker.failures import Failure, while_it_waits
from worker.lease_keeper import LeaseKeeper
from worker.patience import patiently

log = structlog.get_logger(__name__)


class LastWord:
    """Says it for `claim`, if it is still ours to say. `remains` is closed where the disk has no room for it: the run
    folder may be what fills it, with the database on the same one."""

    def __init__(self, claim: Claim, settings: Settings, keeper: LeaseKeeper, remains: ExitStack) -> None:
        self._claim = claim
        self._settings = settings
        self._keeper = keeper
        self._remains = remains

    def fail(self, failure: Failure) -> None:
        self._say(lambda session: mark_failed(session, self._claim, failure))

    def try_again(self, failure: Failure, *, counts: bool) -> None:
        """For a failure that is not the work's own. See the function of that name."""
        if self._say(lambda session: try_again(session, self._claim, failure, self._settings, counts=counts)):
            queue.wake(self._settings)

    def cancel(self) -> None:
        self._say(lambda session: jobs.finish_cancelled(session, self._claim))

    def hand_back(self) -> None:
        if self._say(self._release):
            log.info("work_handed_back", kind=self._claim.kind, id=self._claim.id)
            queue.wake(self._settings)

    def _release(self, session: Session) -> None:
        if not leases.release(session, self._claim):
            raise lost(self._claim)

    def _say(self, change: Callable[[Session], Any]) -> bool:
        """Returns whether it was said."""
        claim = self._claim

        def write() -> None:
            with write_session(self._settings) as session:
                change(session)

        try:
            patiently(
                write,
                what="writing how the work ended",
                check=self._keeper.check_not_lost,
                check_again=self._make_room,
            )
            self._keeper.conclude()
        except LeaseLost:
            log.warning("end_not_written_lease_lost", kind=claim.kind, id=claim.id)
            leave_to_the_sweep(claim, self._settings)
        except Exception:
            # The lease runs out and the sweep decides.
            log.exception("end_not_written", kind=claim.kind, id=claim.id)
        else:
            return True
        return False

    def _make_room(self) -> None:
        self._remains.close()
        self._keeper.check_not_lost()


def try_again(session: Session, claim: Claim, failure: Failure, settings: Settings, *, counts: bool = True) -> bool:
    """Hand back work that may succeed elsewhere or later, a job to go on from its checkpoint; what has got nowhere that
    way MAX_ATTEMPTS times in a row fails. One that `counts` not is as if it had not been. Returns whether this attempt
    made no checkpoint. Raises LeaseLost where the claim holds no more."""
    fruitless_attempts = leases.read_fruitless_attempts(session, claim)
    if counts and fruitless_attempts >= settings.max_attempts:
        mark_failed(session, claim, failure)
    else:
        end = AttemptEnd(AttemptOutcome.FAILED, failure.code, while_it_waits(failure, claim.kind))
        if not leases.release(session, claim, failure=end, counts=counts):
            raise lost(claim)
    return fruitless_attempts > 0


def mark_failed(session: Session, claim: Claim, failure: Failure) -> None:
    """Raises LeaseLost where the claim holds no more."""
    if claim.kind == "job":
        jobs.finish_failed(session, claim, code=failure.code, message=failure.message)
    else:
        imports.mark_failed(session, claim, code=failure.code, message=failure.message)


def leave_to_the_sweep(claim: Claim, settings: Settings, *, object_prefix: str | None = None) -> None:
    """Have the sweep look for what was stored after the work was lost or had ended. A worker that was frozen for long
    may have woken in the middle of an upload, when the sweep had already been there.

    With an `object_prefix` it looks there, while the work goes on: nothing more may come to lie there.
    """
    try:
        with write_session(settings) as session:
            cleanups.schedule(session, object_prefix or keys.root(claim.kind, claim.id))
    except Exception as error:
        log.warning("cleanup_not_scheduled", kind=claim.kind, id=claim.id, error=str(error))
