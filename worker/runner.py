"""One claim from beginning to end: a job's run is in job_run.py, a dataset's or teacher's import in imports.py.

Whatever happens, the engine is dead, the row says how it ended, and the run folder goes, unless the lease
was lost: then another worker or the sweep has the row, and nothing is written. In this order: a worker that has to
stop may have no time left for the folder, nor for an upload that is still going on.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from app.domain.attempts import AttemptOutcome
from app.domain.leases import Claim
from app.errors import LeaseLost
from app.prometheus import LEASES_LOST
from app.settings import Settings
from app.storage.store import ObjectStore
from worker import imports
from worker.engine_process import ENGINE
from worker.failures import Failure, explain
from worker.job_run import run_job
from worker.last_word import LastWord, leave_to_the_sweep
from worker.lease_keeper import LeaseKeeper
from worker.observation import observed
from worker.patience import StorageUnavailable, is_away, patiently
from worker.stopping import Cancelled, HandedBack, Shutdown
from worker.threads import logged_thread
from worker.work import Work
from worker.workspace import run_folder

LOOK_SECONDS = 0.25
# After a stopping worker's time is up, until its work is handed back over the head of the thread that works.
UNWIND_SECONDS = 0.5
# After a cancel was seen, until the job ends over the head of the thread that works.
CANCEL_SECONDS = 5.0

log = structlog.get_logger(__name__)


def run_claim(
    claim: Claim, settings: Settings, shutdown: Shutdown, *, engine: Sequence[str] = ENGINE
) -> Failure | None:
    """Work on a claim until its row says how it ended. Returns why it, or an attempt that got it no further, failed.
    Raises nothing that one piece of work could cause."""
    failure: Failure | None = None
    with (
        observed(claim) as seen,
        LeaseKeeper(claim, settings, shutdown) as keeper,
        ExitStack() as remains,
        _ended_in_time(claim, settings, keeper, shutdown),
    ):
        log.info("work_begun", kind=claim.kind, id=claim.id, attempt=claim.attempt)
        last_word = LastWord(claim, settings, keeper, remains)
        try:
            folder = remains.enter_context(run_folder(settings.work_dir, claim))
            store = patiently(
                lambda: ObjectStore.from_settings(settings), what="opening the object store", check=keeper.check
            )
            work = Work(claim, settings, store, keeper, shutdown, folder, seen)
            if claim.kind == "job":
                failure = run_job(work, remains, engine=engine)
            else:
                imports.run_import(work)
                seen.outcome = AttemptOutcome.SUCCEEDED
        except LeaseLost:
            log.warning("work_dropped", kind=claim.kind, id=claim.id)
            LEASES_LOST.labels(claim.kind).inc()
            seen.outcome = AttemptOutcome.LOST
            leave_to_the_sweep(claim, settings)
        except Cancelled:
            seen.outcome = AttemptOutcome.CANCELLED
            last_word.cancel()
        except HandedBack:
            seen.outcome = AttemptOutcome.PAUSED if keeper.is_pausing else AttemptOutcome.HANDED_BACK
            last_word.hand_back()
        except StorageUnavailable as error:
            failure = explain(error, claim.kind)
            # One that is there refuses this work, perhaps for ever. While it is away it would refuse any.
            is_storage_away = is_away(error, claim, settings)
            log.warning("work_failed", kind=claim.kind, id=claim.id, code=failure.code, is_storage_away=is_storage_away)
            last_word.try_again(failure, counts=not is_storage_away)
        except Exception as error:
            failure = explain(error, claim.kind)
            # A stack trace is for what nobody foresaw; the rest is said in the row.
            trace = error if failure.code == "internal_error" else None
            log.warning("work_failed", kind=claim.kind, id=claim.id, code=failure.code, exc_info=trace)
            last_word.fail(failure)
        else:
            log.info("work_ended", kind=claim.kind, id=claim.id, outcome=seen.outcome)
    return failure


@contextmanager
def _ended_in_time(claim: Claim, settings: Settings, keeper: LeaseKeeper, shutdown: Shutdown) -> Iterator[None]:
    """Say the last word on the work of a stopping worker when its time is up, and on a job that was cancelled soon
    after, whatever the block still waits for: nothing can interrupt the storing or the fetching of a file. What the
    block writes after that is refused."""
    is_over = threading.Event()
    # The run folder stays: the block is at work in it.
    last_word = LastWord(claim, settings, keeper, ExitStack())

    def watch() -> None:
        while not is_over.wait(LOOK_SECONDS):
            if shutdown.seconds_left < -UNWIND_SECONDS:
                log.warning("work_not_over_in_time", kind=claim.kind, id=claim.id)
                return last_word.hand_back()
            if keeper.cancelled_seconds > CANCEL_SECONDS:
                log.warning("cancelled_work_not_over_in_time", kind=claim.kind, id=claim.id)
                return last_word.cancel()
        return None

    thread = logged_thread(watch, name=f"last-word-{claim.id}")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
