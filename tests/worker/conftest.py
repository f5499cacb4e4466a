"""A bench for runs: a dataset and a teacher that real imports made ready, and jobs on them."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from app import exposition
from app.db.models import Dataset, Job, Teacher
from app.db.session import read_session, write_session
from app.domain.ids import new_id
from app.domain.leases import Claim
from app.repositories import checkpoints, datasets, events, jobs, teachers
from app.settings import Settings, get_settings
from app.storage import keys
from app.storage.store import ObjectStore
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.exposition import Scrape
from tests.fixtures.factories import claimed, read_dataset, read_job, read_teacher
from tests.fixtures.tiny_models import write_classifier
from tests.worker.distill.tiny_runs import LABELS, METHODS, VOCABULARY
from worker import reporter
from worker.files import file_sha256
from worker.runner import run_claim
from worker.stopping import Shutdown

TRAINING = {
    "epochs": 1.0,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_length": 24,
    "precision": "fp32",
    "seed": 11,
    "deterministic": False,
}


def scripted(part: str) -> Sequence[str]:
    """The engine program that plays `part`."""
    return (sys.executable, "-m", "tests.worker.scripted_engine", part)


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return once the condition holds; fail when that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def wait_until_over(thread: threading.Thread) -> None:
    """Return once a run in a thread of its own has ended; fail when that takes too long."""
    thread.join(30)
    assert not thread.is_alive(), "it did not end in time"


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("worker-teacher") / "bert", VOCABULARY, LABELS)


class Bench:
    """Adds rows as the API would, and works on them as a worker would, in this process."""

    def __init__(self, teacher_folder: Path) -> None:
        self.teacher_folder = teacher_folder
        self.shutdown = Shutdown(seconds=60.0)
        self._started: list[tuple[threading.Thread, Shutdown]] = []

    @property
    def settings(self) -> Settings:
        return get_settings()

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.from_settings(self.settings)

    def add_dataset(self, files: dict[str, bytes], **columns: str) -> str:
        dataset_id = new_id("dataset")
        uploads = []
        for name, content in files.items():
            split, _, suffix = name.partition(".")
            key = keys.dataset_upload(dataset_id, split, f".{suffix}")
            self.store.put_bytes(key, content)
            path = self.settings.home / "upload"
            path.write_bytes(content)
            uploads.append(
                {
                    "split": split,
                    "filename": name,
                    "object_key": key,
                    "size_bytes": len(content),
                    "sha256": file_sha256(path),
                }
            )
        with write_session() as session:
            size_bytes = sum(len(content) for content in files.values())
            datasets.create(
                session, dataset_id=dataset_id, name=None, uploads=uploads, size_bytes=size_bytes, **columns
            )
        return dataset_id

    def add_teacher(self, source: dict[str, Any] | None = None) -> str:
        teacher_id = new_id("teacher")
        source = source or {"type": "folder", "path": str(self.teacher_folder)}
        with write_session() as session:
            teachers.create(session, teacher_id=teacher_id, name=None, source=source)
        return teacher_id

    def add_uploaded_teacher(self, **more: bytes) -> str:
        """The files of the teacher's folder, and `more` by their names without .json, as POST /teachers/upload leaves
        them."""
        teacher_id = new_id("teacher")
        contents = {path.name: path.read_bytes() for path in self.teacher_folder.iterdir()}
        contents |= {f"{name}.json": content for name, content in more.items()}
        for name, content in contents.items():
            self.store.put_bytes(keys.teacher_upload(teacher_id, name), content)
        files = [
            {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        ]
        with write_session() as session:
            source = {"type": "upload", "files": files}
            teachers.create(session, teacher_id=teacher_id, name=None, source=source)
        return teacher_id

    def ready_inputs(self, rows: int = 90) -> tuple[str, str]:
        """A ready (teacher, dataset), by way of their real imports."""
        words = {"animal": "cat", "colour": "red", "fruit": "plum"}
        lines = [f"the {words[label]} number {n % 7},{label}" for n in range(rows // 3) for label in LABELS]
        dataset_id = self.add_dataset({"train.csv": ("text,label\n" + "\n".join(lines) + "\n").encode()})
        teacher_id = self.add_teacher()
        for _ in range(2):
            run_claim(claimed(), self.settings, self.shutdown)
        assert self.dataset(dataset_id).status == "ready"
        assert self.teacher(teacher_id).status == "ready"
        return teacher_id, dataset_id

    def add_job(self, inputs: tuple[str, str] | None = None, method: str = "kd", **changes: Any) -> str:
        teacher_id, dataset_id = inputs or self.ready_inputs()
        job_id = new_id("job")
        values: dict[str, Any] = {
            "student": {"layers": 2, "hidden_size": "same", "init": "teacher_layers", "word_vectors": "trained"},
            "method": METHODS[method],
            "training": TRAINING,
        }
        with write_session() as session:
            jobs.create(session, job_id=job_id, teacher_id=teacher_id, dataset_id=dataset_id, **{**values, **changes})
        return job_id

    def run(self, part: str, claim: Claim | None = None) -> Claim:
        """Work on the next claim until it has ended, with the engine that plays `part`."""
        claim = claim or claimed(lease_seconds=self.settings.lease_seconds)
        run_claim(claim, self.settings, self.shutdown, engine=scripted(part))
        return claim

    def begin(self, part: str) -> tuple[Claim, threading.Thread]:
        """As `run`, in a thread."""
        claim = claimed(lease_seconds=self.settings.lease_seconds)
        thread = threading.Thread(target=self.run, args=(part, claim), daemon=True)
        self._started.append((thread, self.shutdown))
        thread.start()
        return claim, thread

    def start(self, part: str) -> tuple[Claim, threading.Thread]:
        """As `begin`; returns once the engine has reported."""
        claim, thread = self.begin(part)
        wait_for(lambda: read_job(claim.id).progress == 0.25)
        return claim, thread

    def close(self) -> None:
        """End what `start` started and wait for it: a run that outlives its test writes into the next one's rows."""
        for _, shutdown in self._started:
            shutdown.seconds = 1.0
            shutdown.request()
        for thread, _ in self._started:
            wait_until_over(thread)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        with read_session() as session:
            return [{"type": row.type, **row.payload} for row in events.list_after(session, job_id, limit=1000)]

    def checkpoint_steps(self, job_id: str) -> list[int]:
        with read_session() as session:
            return [row.step for row in checkpoints.list_for_job(session, job_id)]

    def objects(self, prefix: str) -> list[str]:
        return sorted(stored.key for stored in self.store.list(prefix))

    def job(self, job_id: str) -> Job:
        return read_job(job_id)

    def dataset(self, dataset_id: str) -> Dataset:
        return read_dataset(dataset_id)

    def teacher(self, teacher_id: str) -> Teacher:
        return read_teacher(teacher_id)


@pytest.fixture
def bench(teacher_folder: Path, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Needs a database and an object store; the test names which."""
    # Nearly every test waits for what its engine has reported.
    monkeypatch.setattr(reporter, "FLUSH_SECONDS", 0.1)
    settings = change_settings(
        teacher_dirs=teacher_folder.parent, heartbeat_seconds=0.5, lease_seconds=5, engine_threads=1
    )
    settings.home.mkdir(parents=True, exist_ok=True)
    bench = Bench(teacher_folder)
    yield bench
    bench.close()


class WorkerProcess:
    """A worker as operators start it, with the settings of the test's environment."""

    def __init__(self, log_path: Path, module: str = "worker", **environment: str) -> None:
        self.log_path = log_path
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # Celery's own words; the log is on the other stream
                stderr=log,
                env={**os.environ, **environment},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_ready(self) -> None:
        wait_for(lambda: " ready." in self.log)

    def close_pipes(self) -> None:
        """What the end of its parent does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close_pipes()


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts real worker processes; those still alive at the end of the test are killed."""
    started: list[WorkerProcess] = []

    def start(module: str = "worker", **environment: str) -> WorkerProcess:
        worker = WorkerProcess(tmp_path / f"worker-{len(started)}.log", module, **environment)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        print(worker.log)  # shown by pytest when the test failed


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for next to nothing."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def local_bench(sqlite_database: str, folder_object_store: ObjectStore, bench: Bench) -> Bench:  # noqa: ARG001
    """A bench on SQLite and a folder."""
    return bench


@pytest.fixture
def since(local_bench: Bench) -> Callable[..., float]:
    """By how much a metric has grown since the test began: the metrics are those of this process."""
    shown = exposition.Exposition(local_bench.settings, "worker")
    before = Scrape(shown.render().decode())

    def grown(name: str, **labels: str) -> float:
        return Scrape(shown.render().decode()).value(name, **labels) - before.value(name, **labels)

    return grown
