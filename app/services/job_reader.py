"""Read jobs for many clients that poll at the same time.

Who asks while a read is under way waits for the next one, which answers all of them with a single statement. One
client is served at once; five hundred share a read instead of queueing for a thread and a connection each. Every
answer was read after its question came, so nobody is told less than what he has written before.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from app.db.session import read_session
from app.errors import JobNotFound
from app.repositories import jobs
from app.repositories.jobs import JobRow
from app.settings import Settings

JOBS_PER_READ = 200

Answer = asyncio.Future[JobRow | None]


class JobReader:
    """Made for one event loop and used in it alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[Answer]] = defaultdict(list)
        self._reading: asyncio.Task[None] | None = None
        # Not one of the threads that the other requests wait for.
        self._thread = CapacityLimiter(1)

    async def get(self, job_id: str) -> JobRow:
        """The job's row, or JobNotFound."""
        answer: Answer = self.loop.create_future()
        self._waiting[job_id].append(answer)
        if self._reading is None:
            self._reading = self.loop.create_task(self._read_on(), name="job-reader")
        job = await answer
        if job is None:
            raise JobNotFound(job_id, param="job_id")
        return job

    async def _read_on(self) -> None:
        try:
            while self._waiting:
                job_ids = list(self._waiting)[:JOBS_PER_READ]
                await self._read({job_id: self._waiting.pop(job_id) for job_id in job_ids})
        finally:
            self._reading = None

    async def _read(self, asked: dict[str, list[Answer]]) -> None:
        try:
            found = await run_sync(read_rows, self.settings, list(asked), limiter=self._thread)
        except Exception as error:
            for answer in _open(asked):
                answer.set_exception(error)
            return
        by_id = {job.id: job for job in found}
        for job_id, answers in asked.items():
            for answer in answers:
                if not answer.done():
                    answer.set_result(by_id.get(job_id))


def read_rows(settings: Settings, job_ids: Sequence[str]) -> Sequence[JobRow]:
    with read_session(settings) as session:
        return jobs.list_by_ids(session, job_ids)


def _open(asked: dict[str, list[Answer]]) -> list[Answer]:
    """The answers that somebody still waits for: a client may have gone meanwhile."""
    return [answer for answers in asked.values() for answer in answers if not answer.done()]
