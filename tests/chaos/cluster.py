"""The whole service on one machine, on its production parts: API processes, workers, a scheduler, three servers."""

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from app.db import migrate
from app.db.session import dispose_engines
from app.settings import Settings
from tests.chaos import servers
from tests.chaos.processes import MARK, Program, Seen, marked_processes, python, send
from tests.fixtures.servers import free_port, ports_for_weed

START_SECONDS = 120.0

# Short, so that minutes see what otherwise takes hours.
QUICK = {
    "STILLHOUSE_LEASE_SECONDS": "8",
    "STILLHOUSE_HEARTBEAT_SECONDS": "1.5",
    "STILLHOUSE_SWEEP_SECONDS": "1",
    "STILLHOUSE_CHECKPOINT_SECONDS": "0.5",
    # Longer than a frozen worker stays frozen.
    "STILLHOUSE_CLEANUP_DELAY_SECONDS": "20",
    # More than a job meets by chance, few enough for those that are killed each time.
    "STILLHOUSE_MAX_ATTEMPTS": "8",
    "STILLHOUSE_ENGINE_THREADS": "1",
    "STILLHOUSE_LOG_FORMAT": "json",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


@dataclass
class Cluster:
    """Programs by name, and how to reach them from outside."""

    folder: Path
    mark: str
    database_url: str
    redis_url: str
    bucket_variables: dict[str, str]
    settings: Settings
    programs: dict[str, Program]
    addresses: list[str]
    # How long its parts took from their start until they answered.
    start_seconds: float
    # Homes of workers that came back with an empty disk: gone with their machine.
    discarded: list[Path] = field(default_factory=list)

    @property
    def workers(self) -> list[Program]:
        return [program for name, program in self.programs.items() if name.startswith("worker")]

    @property
    def apis(self) -> list[Program]:
        return [program for name, program in self.programs.items() if name.startswith("api")]

    def look_after(self) -> None:
        for program in self.programs.values():
            program.look_after()

    def is_ready(self) -> bool:
        """Whether every API reaches what it needs."""
        return all(_is_ready(address) for address in self.addresses)

    def accidents(self) -> list[str]:
        return [accident for program in self.programs.values() for accident in program.accidents]

    def processes(self) -> list[Seen]:
        return marked_processes(self.mark)

    def take_disk(self, worker: Program) -> None:
        """Have a worker that was killed come back with an empty disk."""
        home = Path(worker.environment["STILLHOUSE_HOME"])
        self.discarded.append(home)
        number = len(self.discarded)
        new = home.with_name(f"{home.name.partition('+')[0]}+{number}")
        worker.environment = {**worker.environment, "STILLHOUSE_HOME": str(new)}

    def leftovers(self) -> list[Path]:
        """What lies in work folders and temporary folders; nothing, when nothing runs."""
        found: list[Path] = []
        for program in self.programs.values():
            if "STILLHOUSE_HOME" in program.environment:
                found += (Path(program.environment["STILLHOUSE_HOME"]) / "work").glob("*")
                found += Path(program.environment["TMPDIR"]).glob("*")
        return sorted(found)


@contextmanager
def running_cluster(
    folder: Path, *, teacher_dirs: Path, workers: int, apis: int, changes: Mapping[str, str]
) -> Iterator[Cluster]:
    """The cluster with an empty, migrated database, ready to answer; all of it is gone after the block.

    `changes` are environment variables that replace those of QUICK.
    """
    mark = secrets.token_hex(8)
    folder.chmod(0o755)  # for the user that PostgreSQL runs as
    (folder / "logs").mkdir()
    base = _base_environment(mark)
    logs = folder / "logs"
    postgres, server_url = servers.postgres(folder / "postgres", base, logs / "postgres.log")
    redis, redis_url = servers.redis_server(folder / "redis", base, logs / "redis.log")
    stack = ExitStack()
    s3_ports = stack.enter_context(ports_for_weed(4))
    s3, bucket_variables = servers.s3(folder / "s3", base, logs / "s3.log", s3_ports)
    programs = {program.name: program for program in (postgres, redis, s3)}
    try:
        for program in programs.values():
            program.start()
        _wait(lambda: servers.postgres_answers(server_url), "PostgreSQL", programs)
        _wait(lambda: servers.redis_answers(redis_url), "Redis", programs)
        _wait(lambda: servers.s3_answers(bucket_variables), "S3", programs)
        shared = {
            **base,
            **QUICK,
            **changes,
            **bucket_variables,
            "STILLHOUSE_DATABASE_URL": server_url,
            "STILLHOUSE_BROKER_URL": redis_url,
            "STILLHOUSE_OBJECT_STORE_URL": f"s3://{servers.BUCKET}/chaos",
            "STILLHOUSE_TEACHER_DIRS": str(teacher_dirs),
        }
        settings = _settings(shared, folder)
        migrate.upgrade(settings)
        dispose_engines()
        addresses = []
        for number in range(1, apis + 1):
            port = free_port()
            addresses.append(f"http://127.0.0.1:{port}")
            programs[f"api-{number}"] = _part(f"api-{number}", shared, folder, "--port", str(port))
        for number in range(1, workers + 1):
            programs[f"worker-{number}"] = _part(f"worker-{number}", shared, folder)
        programs["scheduler"] = _part("scheduler", shared, folder)
        started_at = time.monotonic()
        for name in [*programs][3:]:
            programs[name].start()
        for address in addresses:
            _wait(partial(_is_ready, address), "an API", programs)
        start_seconds = time.monotonic() - started_at
        yield Cluster(
            folder, mark, server_url, redis_url, bucket_variables, settings, programs, addresses, start_seconds
        )
    finally:
        for program in programs.values():
            program.kill()
        for seen in marked_processes(mark):
            send(seen.pid, signal.SIGKILL)
        stack.close()


def stop_parts(cluster: Cluster) -> list[str]:
    """Stop the service as an operator would, and leave the servers; what went wrong, in sentences."""
    parts = [program for program in cluster.programs.values() if "STILLHOUSE_HOME" in program.environment]
    for program in parts:
        program.ask_to_end()
    problems = []
    for program in parts:
        code = program.end()
        if code != 0:
            how = "had to be killed" if code is None else f"ended with {code}"
            problems.append(f"{program.name}, told to stop with nothing to do, {how}; see {program.log.name}")
    return problems


@contextmanager
def run_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-chaos-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _part(name: str, shared: Mapping[str, str], folder: Path, *options: str) -> Program:
    """A process of the service, with a home and a temporary folder of its own: they share only the servers.

    The name begins with the `stillhouse` command that it is: `worker-2`.
    """
    command = python("-m", "app.cli", name.partition("-")[0], *options)
    home, temporary = folder / "homes" / name, folder / "tmp" / name
    temporary.mkdir(parents=True)
    environment = {**shared, "STILLHOUSE_HOME": str(home), "TMPDIR": str(temporary)}
    return Program(name, command, environment, folder / "logs" / f"{name}.log", folder=folder)


def _base_environment(mark: str) -> dict[str, str]:
    """Ours without what belongs to another Stillhouse on this machine, and with the mark of this run."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STILLHOUSE_", "AWS_"))}
    return {**inherited, MARK: mark}


def _settings(environment: Mapping[str, str], folder: Path) -> Settings:
    """The settings of the parts, for what the run itself asks of the code."""
    names = {name.removeprefix("STILLHOUSE_").lower(): value for name, value in environment.items()}
    known = {name: value for name, value in names.items() if name in Settings.model_fields and name != "home"}
    return Settings(home=folder / "homes" / "run", **known)  # type: ignore[arg-type]


def _wait(probe: Callable[[], bool], what: str, programs: Mapping[str, Program]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not probe():
        dead = [p for p in programs.values() if p.process is not None and p.process.poll() is not None]
        if dead or time.monotonic() > deadline:
            tail = "\n".join(f"{p.name}: {p.log.read_text(errors='replace')[-2000:]}" for p in dead)
            raise RuntimeError(f"{what} did not start within {START_SECONDS:g} s\n{tail}")
        time.sleep(0.1)


def _is_ready(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/readyz", timeout=5.0).status_code == httpx.codes.OK
    return False
