"""A job's run under a claim: its inputs fetched, the engine started and followed, the student stored."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice

import structlog

from app import queue
from app.domain.attempts import OUTCOME_BY_STATUS, AttemptOutcome
from app.domain.jobs import JobStatus
from app.repositories import jobs, leases
from app.repositories.artifacts import ArtifactRow
from app.repositories.attempts import AttemptEnd
from app.storage import keys
from worker.distill.run_folder import ARCHIVE, ARTIFACT
from worker.engine_outcome import STOPPED_BY_OTHERS, EngineEnd, EngineOutcome
from worker.engine_process import ENGINE, EngineProcess
from worker.failures import Failure, while_it_waits
from worker.files import describe_file, describe_files
from worker.inputs import materialise
from worker.last_word import leave_to_the_sweep, mark_failed, try_again
from worker.machine import engine_memory_limit_bytes, memory_bytes
from worker.observation import FETCHING, STARTING, STORING
from worker.patience import StorageUnavailable, is_away
from worker.reporter import Reporter
from worker.stopping import HandedBack
from worker.uploads import Uploads
from worker.work import Work

LOOK_SECONDS = 0.25
# Of the time that a stopping worker has, the engine gets this share to write its checkpoint; the rest is
# for storing it.
ENGINE_SHARE_OF_STOP = 0.6
# A pause and the end of a time limit are in no haste: a big model's checkpoint takes its time.
SAVE_SECONDS = 120.0
# How long a run that has failed waits for its last checkpoint to be stored.
SETTLE_SECONDS = 30.0
# How long a student that is complete waits for a database or an object store that is away. Without them the worker
# could do nothing else.
STORAGE_AWAY_SECONDS = 24 * 3600.0
ARCHIVE_NAME = "student.tar.gz"

log = structlog.get_logger(__name__)


def run_job(work: Work, remains: ExitStack, *, engine: Sequence[str] = ENGINE) -> Failure | None:
    """Materialise, run the engine, report, store the student; the job has ended, or waits to be tried again, when this
    returns. Returns why it, or an attempt that got it no further, failed.

    `remains` is closed once the row says so.
    """
    work.seen.enter(FETCHING)
    spec = materialise(work)
    work.seen.enter(STARTING)
    process = EngineProcess.start(
        work.folder,
        threads=spec["threads"],
        memory_limit_bytes=work.settings.engine_memory_limit_bytes or engine_memory_limit_bytes(memory_bytes()),
        device=work.settings.engine_device,
        program=engine,
    )
    uploads = Uploads(work)
    try:
        # From the keeper's thread, so that a cancel ends the engine whatever this thread is waiting for.
        work.keeper.on_interrupt(process.kill)
        work.keeper.begin_run()
        reporter = Reporter(work, uploads, work.folder)
        _follow(work, process, reporter, uploads)
        work.keeper.end_run()
        return _finish(work, process, reporter, uploads)
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


def _finish(work: Work, process: EngineProcess, reporter: Reporter, uploads: Uploads) -> Failure | None:
    """Bring the row to where the engine's end leads."""
    check = work.keeper.check_until_deadline
    outcome = process.outcome(reporter.outcome)
    if outcome.end is EngineEnd.STOPPED and not work.keeper.is_told_to_stop:
        outcome = STOPPED_BY_OTHERS
    log.info("engine_outcome", end=outcome.end, code=outcome.code)
    if outcome.end is EngineEnd.SUCCEEDED:
        uploads.put_checkpoints_last()
        work.seen.enter(STORING)
        status = _succeed(work, reporter, uploads, outcome)
        work.seen.outcome = OUTCOME_BY_STATUS[status]
        return None
    is_told = work.keeper.is_told_to_stop and (outcome.end is EngineEnd.STOPPED or reporter.outcome is None)
    # First what the run said, then its last checkpoint: it waits for that.
    reporter.flush(check)
    uploads.settle(min(SAVE_SECONDS if is_told else SETTLE_SECONDS, work.shutdown.seconds_left))
    work.keeper.check_claim()  # which may be what ended the wait
    if is_told:
        work.keeper.raise_why_told()
    if outcome.end is EngineEnd.NO_DEVICE:
        # This worker's go does not count: else one without its GPU would fail, after a few, a job that fits others.
        message = while_it_waits(outcome.failure, work.claim.kind)
        why = AttemptEnd(AttemptOutcome.HANDED_BACK, outcome.code, message)
        work.conclude(lambda session: leases.release_unbegun(session, work.claim, why), check=check)
        work.seen.outcome = AttemptOutcome.HANDED_BACK
        queue.wake(work.settings)
        return outcome.failure
    if outcome.end is EngineEnd.KILLED:
        is_fruitless = work.conclude(
            lambda session: try_again(session, work.claim, outcome.failure, work.settings), check=check
        )
        queue.wake(work.settings)
        return outcome.failure if is_fruitless else None
    work.conclude(lambda session: mark_failed(session, work.claim, outcome.failure), check=check)
    return outcome.failure


def _succeed(work: Work, reporter: Reporter, uploads: Uploads, outcome: EngineOutcome) -> JobStatus:
    """Store the student and write that the job has succeeded; returns its status. A database or an object store that is
    away does not fail the job: it is asked again, and in the end the job is handed back, to go on from its checkpoint.
    Raises StorageUnavailable where it is there and refuses this student."""
    check = work.keeper.check_until_deadline
    deadline = time.monotonic() + STORAGE_AWAY_SECONDS
    artifacts: list[ArtifactRow] = []
    refusals = 0
    while True:
        try:
            _store_artifacts(work, artifacts)
            reporter.flush(check)
            uploads.settle(min(SETTLE_SECONDS, work.shutdown.seconds_left))
            return work.conclude(
                lambda session: jobs.finish_succeeded(session, work.claim, result=outcome.result, artifacts=artifacts),
                check=check,
            )
        except StorageUnavailable as error:
            # Twice: after the first time it may be there only since it failed.
            refusals = 0 if is_away(error, work.claim, work.settings) else refusals + 1
            if refusals > 1:
                raise
            log.warning("success_not_written", error=str(error))
            if time.monotonic() >= deadline:
                raise HandedBack from error


def _store_artifacts(work: Work, stored: list[ArtifactRow]) -> None:
    """Store the student's files and the archive of them all, and add each to `stored`, whose files are not stored
    again; they become visible with the job's success."""
    check = work.keeper.check_until_deadline
    folder = work.folder / ARTIFACT
    paths = {file["path"]: (folder / file["path"], file) for file in describe_files(folder)}
    archive = work.folder / ARCHIVE
    paths[ARCHIVE_NAME] = (archive, describe_file(archive, work.folder))
    for name, (path, file) in islice(paths.items(), len(stored), None):
        key = keys.job_artifact(work.claim.id, work.claim.run_token, name)
        work.upload(path, key, check=check)
        stored.append(ArtifactRow(name, key, file["size_bytes"], file["sha256"]))


def _leave_behind(work: Work, uploads: Uploads) -> None:
    """See to an upload that was still going on when the work ended: what it stores is nobody's."""
    uploads.wait_until_over()
    leave_to_the_sweep(work.claim, work.settings)
