"""One claim from beginning to end: a job's run here, a dataset's or teacher's in imports.py.

Whatever happens, the engine is dead, the row says how it ended, and the run folder goes, unless the lease
was lost: then another worker or the sweep has the row, and nothing is written. In this order: a worker that has to
stop may have no time left for the folder, nor for an upload that is still going on.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog
from sqlalchemy.orm import Session

from app import queue
from app.db.session import write_session
from app.domain.attempts import OUTCOME_BY_STATUS, AttemptOutcome
from app.domain.leases import Claim
from app.errors import LeaseLost
from app.prometheus import LEASES_LOST
from app.repositories import cleanups, datasets, jobs, leases, teachers
from app.repositories.artifacts import ArtifactRow
from app.repositories.attempts import AttemptEnd
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectStore
from worker import imports
from worker.distill.errors import InvalidJob
from worker.engine_outcome import RETRY, EngineEnd, EngineOutcome, disk_full
from worker.engine_process import ENGINE, EngineProcess
from worker.files import describe_file, describe_files
from worker.inputs import InputMissing, materialise
from worker.lease_keeper import LeaseKeeper
from worker.machine import ENGINE_MEMORY_SHARE, memory_bytes
from worker.observation import FETCHING, STARTING, STORING, observed
from worker.patience import StorageUnavailable, is_disk_full, patiently
from worker.preparation.errors import PreparationFailed
from worker.reporter import Reporter
from worker.stopping import Cancelled, HandedBack, OutOfTime, Shutdown
from worker.threads import logged_thread
from worker.uploads import Uploads
from worker.work import Work
from worker.workspace import run_folder

LOOK_SECONDS = 0.25
# After a stopping worker's time is up, until its work is handed back over the head of the thread that works.
UNWIND_SECONDS = 0.5
# Of the time that a stopping worker has, the engine gets this share to write its checkpoint; the rest is
# for storing it.
ENGINE_SHARE_OF_STOP = 0.6
# A pause and the end of a time limit are in no haste: a big model's checkpoint takes its time.
SAVE_SECONDS = 120.0
# How long a run that has failed waits for its last checkpoint to be stored.
SETTLE_SECONDS = 30.0
ARCHIVE = "artifact.tar.gz"
ARCHIVE_NAME = "student.tar.gz"
_TRY_AGAIN = {"job": RETRY, "dataset": "upload it again", "teacher": "post it again"}
_ROOTS = {"job": keys.job_root, "dataset": keys.dataset_root, "teacher": keys.teacher_root}

log = structlog.get_logger(__name__)


def run_claim(claim: Claim, settings: Settings, shutdown: Shutdown, *, engine: Sequence[str] = ENGINE) -> None:
    """Work on a claim until its row says how it ended. Raises nothing that one piece of work could cause."""
    with (
        observed(claim) as seen,
        LeaseKeeper(claim, settings, shutdown) as keeper,
        ExitStack() as remains,
        _handed_back_in_time(claim, settings, keeper, shutdown),
    ):
        log.info("work_begun", kind=claim.kind, id=claim.id, attempt=claim.attempt)
        try:
            folder = remains.enter_context(run_folder(settings.work_dir, claim))
            store = ObjectStore.from_settings(settings)
            work = Work(claim, settings, store, keeper, shutdown, folder, seen)
            if claim.kind == "job":
                run_job(work, remains, engine=engine)
            else:
                imports.run_import(work)
                seen.outcome = AttemptOutcome.SUCCEEDED
        except LeaseLost:
            log.warning("work_dropped", kind=claim.kind, id=claim.id)
            LEASES_LOST.labels(claim.kind).inc()
            seen.outcome = AttemptOutcome.LOST
            _leave_to_the_sweep(claim, settings)
        except Cancelled:
            seen.outcome = AttemptOutcome.CANCELLED
            _end(claim, settings, keeper, remains, lambda session: jobs.finish_cancelled(session, claim))
        except HandedBack:
            seen.outcome = AttemptOutcome.PAUSED if keeper.is_pausing else AttemptOutcome.HANDED_BACK
            _hand_back(claim, settings, keeper, remains)
        except Exception as error:
            failure = _explain(error, _TRY_AGAIN[claim.kind])
            # A stack trace is for what nobody foresaw; the rest is said in the row.
            trace = error if failure.code == "internal_error" else None
            log.warning("work_failed", kind=claim.kind, id=claim.id, code=failure.code, exc_info=trace)
            _end(claim, settings, keeper, remains, lambda session: _mark_failed(session, claim, failure))
        else:
            log.info("work_ended", kind=claim.kind, id=claim.id, outcome=seen.outcome)


@contextmanager
def _handed_back_in_time(claim: Claim, settings: Settings, keeper: LeaseKeeper, shutdown: Shutdown) -> Iterator[None]:
    """Hand the work of a stopping worker back when its time is up, whatever the block still waits for: nothing can
    interrupt the storing or the fetching of a file. What the block writes after that is refused."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_SECONDS):
            if shutdown.seconds_left < -UNWIND_SECONDS:
                log.warning("work_not_over_in_time", kind=claim.kind, id=claim.id)
                _hand_back(claim, settings, keeper, ExitStack())
                return

    thread = logged_thread(watch, name=f"hand-back-{claim.id}")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def run_job(work: Work, remains: ExitStack, *, engine: Sequence[str] = ENGINE) -> None:
    """Materialise, run the engine, report, store the student; the job has ended when this returns.

    `remains` is closed once the row says so.
    """
    work.seen.enter(FETCHING)
    spec = materialise(work)
    work.seen.enter(STARTING)
    process = EngineProcess.start(
        work.folder,
        threads=spec["threads"],
        memory_limit_bytes=work.settings.engine_memory_limit_bytes or int(ENGINE_MEMORY_SHARE * memory_bytes()),
        program=engine,
    )
    uploads = Uploads(work)
    try:
        # From the keeper's thread, so that a cancel ends the engine whatever this thread is waiting for.
        work.keeper.on_interrupt(process.kill)
        reporter = Reporter(work, uploads, work.folder)
        _follow(work, process, reporter, uploads)
        _finish(work, process, reporter, uploads)
    finally:
        process.kill()
        process.wait(10.0)
        if uploads.close():
            remains.callback(_leave_behind, work, uploads)


def _follow(work: Work, process: EngineProcess, reporter: Reporter, uploads: Uploads) -> None:
    """Report until the engine has ended; pass on what stops it."""
    is_stopping = is_in_haste = False
    while process.is_running:
        reporter.collect()
        reporter.flush_if_due()
        work.keeper.check_claim()
        if uploads.failure is not None:
            raise uploads.failure
        if work.keeper.is_told_to_stop and not is_stopping:
            is_stopping = True
            process.stop(SAVE_SECONDS)
        if work.shutdown.is_requested and not is_in_haste:
            is_in_haste = True
            process.stop(work.shutdown.seconds_left * ENGINE_SHARE_OF_STOP)
        process.wait(LOOK_SECONDS)
    reporter.collect()
    work.keeper.check_claim()


def _finish(work: Work, process: EngineProcess, reporter: Reporter, uploads: Uploads) -> None:
    """Bring the row to where the engine's end leads."""
    check = work.keeper.check_until_deadline
    outcome = process.outcome(reporter.outcome)
    log.info("engine_outcome", end=outcome.end, code=outcome.code)
    if outcome.end is EngineEnd.SUCCEEDED:
        # No checkpoint is needed any more; what other jobs can use is.
        uploads.drop_checkpoints()
        work.seen.enter(STORING)
        artifacts = _store_artifacts(work)
        reporter.flush(check)
        uploads.settle(min(SETTLE_SECONDS, work.shutdown.seconds_left))
        status = work.conclude(
            lambda session: jobs.finish_succeeded(session, work.claim, result=outcome.result, artifacts=artifacts),
            check=check,
        )
        work.seen.outcome = OUTCOME_BY_STATUS[status]
        return
    was_told = outcome.end is EngineEnd.STOPPED or (work.keeper.is_told_to_stop and reporter.outcome is None)
    # First what the run said, then its last checkpoint: it waits for that.
    reporter.flush(check)
    uploads.settle(min(SAVE_SECONDS if was_told else SETTLE_SECONDS, work.shutdown.seconds_left))
    if was_told:
        work.keeper.raise_why_told()
    if outcome.end is EngineEnd.KILLED:
        work.conclude(lambda session: _try_again(session, work, outcome), check=check)
        queue.wake(work.settings)
        return
    work.conclude(lambda session: _mark_failed(session, work.claim, outcome), check=check)


def _try_again(session: Session, work: Work, outcome: EngineOutcome) -> None:
    """Queue a job whose engine was killed, to go on from its checkpoint; one that gets nowhere that way fails."""
    job = jobs.get(session, work.claim.id)
    if job is not None and job.fruitless_attempts < work.settings.max_attempts:
        failure = AttemptEnd(AttemptOutcome.FAILED, outcome.code, outcome.message)
        leases.release(session, work.claim, failure=failure)
    else:
        _mark_failed(session, work.claim, outcome)


def _store_artifacts(work: Work) -> list[ArtifactRow]:
    """Store the student's files and the archive of them all; they become visible with the job's success."""
    check = work.keeper.check_until_deadline
    folder = work.folder / "artifact"
    paths = {file["path"]: (folder / file["path"], file) for file in describe_files(folder)}
    archive = work.folder / ARCHIVE
    paths[ARCHIVE_NAME] = (archive, describe_file(archive, work.folder))
    rows = []
    for name, (path, file) in paths.items():
        key = keys.job_artifact(work.claim.id, work.claim.run_token, name)
        work.upload(path, key, check=check)
        rows.append(ArtifactRow(name, key, file["size_bytes"], file["sha256"]))
    return rows


def _end(claim: Claim, settings: Settings, keeper: LeaseKeeper, remains: ExitStack, change: imports.Change) -> None:
    """Write the last word on a claim, if it is still ours to say."""

    def make_room() -> None:
        # The run folder may be what fills the disk, where the database lies on the same one.
        remains.close()
        keeper.check_not_lost()

    try:
        patiently(
            lambda: imports.apply(settings, change),
            what="writing how the work ended",
            check=keeper.check_not_lost,
            check_again=make_room,
        )
        keeper.conclude()
    except LeaseLost:
        log.warning("end_not_written_lease_lost", kind=claim.kind, id=claim.id)
    except Exception:
        # The lease runs out and the sweep decides.
        log.exception("end_not_written", kind=claim.kind, id=claim.id)


def _leave_behind(work: Work, uploads: Uploads) -> None:
    """See to an upload that was still going on when the work ended: what it stores is nobody's."""
    uploads.wait_until_over()
    _leave_to_the_sweep(work.claim, work.settings)


def _leave_to_the_sweep(claim: Claim, settings: Settings) -> None:
    """Have the sweep look for what was stored after the work was lost or had ended. A worker that was frozen for long
    may have woken in the middle of an upload, when the sweep had already been there."""
    try:
        with write_session(settings) as session:
            cleanups.schedule(session, _ROOTS[claim.kind](claim.id))
    except Exception as error:
        log.warning("cleanup_not_scheduled", kind=claim.kind, id=claim.id, error=str(error))


def _hand_back(claim: Claim, settings: Settings, keeper: LeaseKeeper, remains: ExitStack) -> None:
    _end(claim, settings, keeper, remains, lambda session: leases.release(session, claim))
    log.info("work_handed_back", kind=claim.kind, id=claim.id)
    queue.wake(settings)


def _mark_failed(session: Session, claim: Claim, outcome: EngineOutcome) -> None:
    if claim.kind == "job":
        jobs.finish_failed(session, claim, code=outcome.code, message=outcome.message)
    elif claim.kind == "dataset":
        datasets.mark_failed(session, claim, code=outcome.code, message=outcome.message)
    else:
        teachers.mark_failed(session, claim, code=outcome.code, message=outcome.message)


def _explain(error: Exception, again: str) -> EngineOutcome:
    """What ended the work, as a code and a sentence; `again` says how it is tried again."""
    if is_disk_full(error):
        return disk_full("The worker", again, str(error).splitlines()[0] if str(error) else "")
    code, message = "internal_error", ""
    if isinstance(error, OutOfTime):
        code, message = "time_limit_exceeded", str(error)
    elif isinstance(error, PreparationFailed | InvalidJob):
        code, message = error.code, str(error)
    elif isinstance(error, InputMissing):
        code, message = "input_missing", str(error)
    elif isinstance(error, StorageUnavailable):
        code, message = (
            "storage_unavailable",
            f"{error}. Once the database and the object store answer again, {again}.",
        )
    else:
        message = (
            f"The worker met an error of its own ({type(error).__name__}: {error}). Please {again}; if that "
            "ends the same way, report it with the worker's log."
        )
    return EngineOutcome(EngineEnd.FAILED, code=code, message=message)
