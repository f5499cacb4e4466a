"""What is measured: PostgreSQL, Redis, the API and the bare application, each a process of its own, and the rows."""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from app.db import migrate
from app.db.models import Dataset, Teacher
from app.db.session import get_engine, write_session
from app.settings import Settings
from tests.fixtures.factories import SHA256
from tests.fixtures.servers import free_port, postgres_server, redis_server, running, scratch_folder, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
# About as many jobs run, evenly over the table, and are polled: the others are over, and nobody asks for them.
LIVE_JOBS = 10_000
# PostgreSQL as an operator runs it: a commit is on the disk before it is answered.
DURABLE: dict[str, Any] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
}
BODY = {
    "teacher": "tch_bench",
    "dataset": "dts_bench",
    "student": {"layers": 3},
    "method": {"type": "sage", "rounds": 4},
    "training": {"epochs": 4, "max_length": 48},
    "teacher_tuning": {"epochs": 3},
    "baselines": ["fine_tune"],
    "metadata": {"team": "search", "experiment": "bench"},
}
# Every other job is a copy of one that was posted, with what a run adds to it.
COPY_JOBS = """
INSERT INTO jobs (id, status, teacher_id, dataset_id, student, method, training, teacher_tuning, baselines, metadata,
                  phase, round, rounds, progress, eta_seconds, last_metrics, result, attempt, fruitless_attempts,
                  event_sequence, priority, run_seconds, created_at, queued_at, started_at, finished_at)
SELECT 'job_' || lpad(n::text, 26, '0'), CASE WHEN is_live THEN 'running' ELSE 'succeeded' END, teacher_id, dataset_id,
       student, method, training, teacher_tuning, baselines, metadata, CASE WHEN is_live THEN 'training' END, 2, 4,
       CASE WHEN is_live THEN 0.5 ELSE 1 END, CASE WHEN is_live THEN 61.5 END,
       '{"train/loss": 0.41, "validation/accuracy": 0.93, "validation/loss": 0.31, "train/learning_rate": 0.0001}',
       CASE WHEN is_live THEN NULL ELSE '{"teacher": {"test": {"accuracy": 0.945}}, "student": {"test":
       {"accuracy": 0.933}}}'::jsonb END, 1, 0, 20, 0, 60, at, at, at, CASE WHEN is_live THEN NULL ELSE at END
FROM jobs, generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n,
     LATERAL (SELECT n % :live_every = 0 AS is_live, timestamptz '2026-01-01' + n * interval '1 second' AS at) AS values
WHERE id = :template
"""
# Of those that have run so far, those that now stand too close. The filled jobs are told by their number, which is the
# second they were created in; the posted ones do not run.
FINISH_JOBS = """
UPDATE jobs SET status = 'succeeded', phase = NULL, progress = 1, eta_seconds = NULL, finished_at = created_at,
                result = '{"teacher": {"test": {"accuracy": 0.945}}, "student": {"test": {"accuracy": 0.933}}}'
WHERE status = 'running'
  AND CAST(extract(epoch FROM created_at - timestamptz '2026-01-01') AS bigint) % :live_every <> 0
"""


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """The processor time that it has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True)
class System:
    settings: Settings
    api: Server
    bare: Server


@contextmanager
def started_system(*, is_quick: bool) -> Iterator[System]:
    """Everything started, with a dataset and a teacher to post jobs on, and no job yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        database_url = stack.enter_context(postgres_server(**({} if is_quick else DURABLE)))
        broker_url = stack.enter_context(redis_server())
        settings = Settings(home=folder / "home", database_url=database_url, broker_url=broker_url)
        migrate.upgrade(settings)
        add_inputs(settings)
        api_port, bare_port = free_port(), free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STILLHOUSE_")}
        environment |= {
            "STILLHOUSE_HOME": str(settings.home),
            "STILLHOUSE_DATABASE_URL": database_url,
            "STILLHOUSE_BROKER_URL": broker_url,
            "BARE_DATABASE_URL": database_url,
        }
        api = [sys.executable, "-P", "-m", "app.cli", "api", "--port", str(api_port)]
        # -P keeps the folder out of the path; uvicorn puts it back for the application that it is to load.
        bare = [sys.executable, "-m", "uvicorn", "bench.api.bare:app", "--port", str(bare_port), "--no-access-log"]
        api_server = _start(stack, folder / "api", api, environment, api_port, "/healthz")
        bare_server = _start(stack, folder / "bare", bare, environment, bare_port, "/openapi.json")
        yield System(settings, api_server, bare_server)


def post_job(system: System) -> str:
    """A job posted as any client would. Gives its id."""
    request = urllib.request.Request(
        f"{system.api.address}/jobs",
        data=json.dumps(BODY).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(json.load(response)["id"])


def add_inputs(settings: Settings) -> None:
    """A dataset and a teacher that a job may use."""
    done = {"status": "ready", "attempt": 1, "fruitless_attempts": 0, "sha256": SHA256, "warnings": [], "files": []}
    dataset = {"name": "bench", "uploads": [], "size_bytes": 1, "rows": {"train": 2000}, "labels": ["a", "b"]}
    teacher = {"name": "bench", "source": {"type": "folder", "path": "/t"}, "family": "bert", "layers": 6}
    sizes = {"hidden_size": 384, "parameters": 22_700_000, "max_positions": 512, "size_bytes": 90_900_000}
    with write_session(settings) as session:
        session.add(Dataset(id="dts_bench", is_validation_made=False, **dataset, **done))
        session.add(Teacher(id="tch_bench", **teacher, **sizes, **done))


def fill_jobs(system: System, template: str, *, first: int, last: int) -> None:
    """Jobs numbered `first` to `last`; of all that there are then, every so many runs and the others have succeeded."""
    live_every = max(1, last // LIVE_JOBS)
    with write_session(system.settings) as session:
        session.execute(text(FINISH_JOBS), {"live_every": live_every})
    for start in range(first, last + 1, 100_000):
        with write_session(system.settings) as session:
            values = {"first": start, "last": min(last, start + 99_999), "template": template}
            session.execute(text(COPY_JOBS), {**values, "live_every": live_every})
    with get_engine(system.settings).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
        connection.execute(text("CHECKPOINT"))


def live_jobs(system: System) -> list[str]:
    """The ids of jobs that run, which clients poll: from all over the table, also where more run than are polled."""
    query = "SELECT id FROM jobs WHERE status = 'running' ORDER BY md5(id) LIMIT :limit"
    with get_engine(system.settings).connect() as connection:
        return list(connection.scalars(text(query), {"limit": LIVE_JOBS}))


def add_points(system: System, job_id: str, count: int) -> None:
    """That many metric points, in four series."""
    with write_session(system.settings) as session:
        session.execute(
            text(
                "INSERT INTO metrics (job_id, series, step, value) SELECT :job_id, 'series/' || n % 4, n, random() "
                "FROM generate_series(1, :count) AS n"
            ),
            {"job_id": job_id, "count": count},
        )
    with get_engine(system.settings).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE metrics"))


def _start(
    stack: ExitStack, folder: Path, command: list[str], environment: dict[str, str], port: int, probe: str
) -> Server:
    folder.mkdir()
    variables = [f"{name}={value}" for name, value in {**environment, "PYTHONPATH": str(CHECKOUT)}.items()]
    # `env` becomes the command, so the process is the server itself.
    process = stack.enter_context(running(["env", "-i", *variables, *command], folder))
    server = Server(port, psutil.Process(process.pid))
    wait_until(process, folder, lambda: _answers(server.address + probe))
    return server


def _answers(probe: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(probe, timeout=5):
        return True
    return False
