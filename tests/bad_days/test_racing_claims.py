"""Many workers ask for work at one instant: each job goes to one of them, the most urgent first."""

import itertools
import random
import subprocess
import sys
from contextlib import ExitStack

import pytest
from sqlalchemy import select, text

from app.db.models import Attempt, Job
from app.db.session import read_session, wait_without_limits
from tests.bad_days.conftest import wait_until
from tests.fixtures.factories import add_job

pytestmark = [pytest.mark.xdist_group("bad_days_claims"), pytest.mark.usefixtures("postgres_database")]

PROCESSES = 4
JOBS = 120
LOCK = 7_301


class TestProcesses:
    def test_get_each_job_once_and_each_of_them_the_most_urgent_first(self) -> None:
        chance = random.Random(3)
        rank: dict[str, tuple[int, int]] = {}
        for number in range(JOBS):
            priority = chance.choice((-5, 0, 0, 5, 10))
            rank[add_job(priority=priority)] = (-priority, number)

        with ExitStack() as stack:
            claimers = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.bad_days.claimer", f"worker-{number}", str(LOCK)],
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
                for number in range(PROCESSES)
            ]
            with read_session() as session:
                wait_without_limits(session.connection())
                session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                for claimer in claimers:
                    assert claimer.stdout is not None
                    assert claimer.stdout.readline() == "ready\n"
                waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                wait_until(lambda: session.scalar(waiting) == PROCESSES)
            outputs = [claimer.communicate(timeout=60)[0].splitlines() for claimer in claimers]
        assert [claimer.returncode for claimer in claimers] == [0] * PROCESSES

        claims = [[line.split() for line in output] for output in outputs]
        got = list(itertools.chain.from_iterable(claims))
        assert sorted(job_id for job_id, _ in got) == sorted(rank)
        assert len({token for _, token in got}) == JOBS
        assert sum(bool(own) for own in claims) > 1, "they raced"
        for own in claims:
            ranks = [rank[job_id] for job_id, _ in own]
            assert ranks == sorted(ranks)
        with read_session() as session:
            held = {(row.id, row.run_token) for row in session.execute(select(Job.id, Job.run_token, Job.attempt))}
            attempts = session.execute(select(Attempt.job_id, Attempt.number, Attempt.worker_name)).all()
        assert held == {(job_id, token) for job_id, token in got}
        by_worker = {(job_id, 1, f"worker-{number}") for number, own in enumerate(claims) for job_id, _ in own}
        assert {tuple(row) for row in attempts} == by_worker
