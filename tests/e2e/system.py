"""A whole Stillhouse as its users run it: real processes, a real port, a folder of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from app.home_lock import running_address
from tests.e2e import tiny

Json = dict[str, Any]
T = TypeVar("T")

START_SECONDS = 60.0
JOB_SECONDS = 250.0

# Short leases, so that a test of a killed worker need not wait for half a minute.
QUICK = {
    "STILLHOUSE_LEASE_SECONDS": "4",
    "STILLHOUSE_HEARTBEAT_SECONDS": "1",
    "STILLHOUSE_SWEEP_SECONDS": "1",
    "STILLHOUSE_CHECKPOINT_SECONDS": "0.5",
    "STILLHOUSE_ENGINE_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


def environment(home: Path, *, teacher_dirs: Path, **more: str) -> dict[str, str]:
    """The environment of a process that belongs to this home and to nothing else on the machine."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STILLHOUSE_")}
    return {
        **inherited,
        **QUICK,
        "STILLHOUSE_HOME": str(home),
        "STILLHOUSE_TEACHER_DIRS": str(teacher_dirs),
        **more,
    }


class Process:
    """A process of the system under test; its output is kept for the report of a failure."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.env = env
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.popen.pid).children(recursive=True)
        return []

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 30.0) -> int:
        """Ask it to stop as a person would, and return its exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(timeout=seconds)

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        left = self.descendants()
        if self.popen.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


class Up(Process):
    """`stillhouse up` on a free port."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        super().__init__([sys.executable, "-P", "-m", "app.cli", "up", "--port", "0"], env, home / "up.log")
        try:
            self.address = wait_for(
                lambda: running_address(home) or "", START_SECONDS, "address of the API", process=self
            )
            wait_for(lambda: is_ready(self.address), START_SECONDS, "readiness", process=self)
        except BaseException:
            self.end()
            raise

    def worker(self) -> psutil.Process:
        """The worker process: the one child of `up`."""
        (worker,) = psutil.Process(self.popen.pid).children()
        return worker


def engines_of(worker: psutil.Process) -> list[psutil.Process]:
    """The engines that a worker runs now."""
    found = []
    for child in worker.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "worker.distill" in child.cmdline():
                found.append(child)
    return found


def is_ready(address: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{address}/readyz", timeout=5.0).status_code == httpx.codes.OK
    return False


def wait_for(probe: Callable[[], T], seconds: float, what: str, *, process: Process | None = None) -> T:
    """Poll until `probe` returns something true; fail with the process's last output otherwise."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        is_dead = process is not None and process.popen.poll() is not None
        if is_dead or time.monotonic() > deadline:
            output = process.log.read_text(errors="replace")[-4000:] if process else ""
            ended = f"; the process ended with {process.popen.returncode}" if process and is_dead else ""
            raise AssertionError(f"no {what} within {seconds:g} s{ended}\n{output}")
        time.sleep(0.05)
    return found


class Client:
    """What the tests ask of the API."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=30.0)

    def get(self, path: str) -> Json:
        response = self.http.get(path)
        assert response.status_code == httpx.codes.OK, response.text
        return dict(response.json())

    def wait_until_ready(self, kind: str, row_id: str, *, process: Process) -> Json:
        path = f"/{kind}/{row_id}"
        wait_for(lambda: self.get(path)["terminal"], 60.0, f"verdict on {path}", process=process)
        row = self.get(path)
        assert row["status"] == "ready", row
        return row

    def upload_dataset(self) -> str:
        files = {split: (f"{split}.csv", tiny.csv_bytes(split), "text/csv") for split in tiny.ROWS}
        response = self.http.post("/datasets", data={"name": "words"}, files=files)
        assert response.status_code == httpx.codes.ACCEPTED, response.text
        return str(response.json()["id"])

    def register_teacher(self, folder: Path) -> str:
        response = self.http.post("/teachers", json={"source": {"type": "folder", "path": str(folder)}})
        assert response.status_code == httpx.codes.ACCEPTED, response.text
        return str(response.json()["id"])

    def post_job(self, *, teacher: str, dataset: str, **changes: Any) -> Json:
        body = {**tiny.JOB, "teacher": teacher, "dataset": dataset, **changes}
        response = self.http.post("/jobs", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
        assert response.status_code == httpx.codes.ACCEPTED, response.text
        return dict(response.json())

    def wait_until_succeeded(self, job_id: str, *, process: Process) -> Json:
        wait_for(lambda: self.get(f"/jobs/{job_id}")["terminal"], JOB_SECONDS, "end of the job", process=process)
        job = self.get(f"/jobs/{job_id}")
        assert job["status"] == "succeeded", json.dumps(job, indent=1)
        return job

    def events(self, job_id: str, kind: str) -> list[Json]:
        found: list[Json] = []
        after = ""
        while True:
            page = self.get(f"/jobs/{job_id}/events?limit=200{after}")
            found += [event for event in page["data"] if event["type"] == kind]
            if not page["has_more"]:
                return found
            after = f"&after={page['next']}"


@dataclass
class Embedded:
    """A running `stillhouse up` with a teacher and a dataset that are ready."""

    up: Up
    client: Client
    teacher: str = ""
    dataset: str = ""

    def start_again(self) -> None:
        self.client.http.close()
        self.up = Up(self.up.home, self.up.env)
        self.client = Client(self.up.address)
