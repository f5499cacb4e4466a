"""The clients: each posts a job, does with it what the plan says, and writes down what it was told.

They retry blindly, as the documentation allows: whatever breaks or answers 503 is asked again, of any API.
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.plan import TIME_LIMIT_SECONDS, Intent, Moment, PlannedJob

Json = dict[str, Any]

PAUSE_SECONDS = 0.4
ANSWER_SECONDS = 20.0
ARCHIVE = "student.tar.gz"


class GaveUp(Exception):
    """The run's time is over."""


@dataclass
class Told:
    """What a client was told about its job: the run is held to it."""

    plan: PlannedJob
    # Of every answer to the post and its repetitions.
    job_ids: set[str] = field(default_factory=set)
    # How the job ended, as the client saw it: more than one with a retry.
    ends: list[str] = field(default_factory=list)
    # A cancel was answered with 202, so nothing but `cancelled` may follow.
    is_cancel_accepted: bool = False
    is_doomed: bool = False
    is_pause_seen: bool = False
    is_deleted: bool = False
    archive_sha256: str | None = None
    # Answers that nobody should get.
    wrong_answers: list[str] = field(default_factory=list)
    is_done: bool = False

    @property
    def job_id(self) -> str | None:
        return min(self.job_ids, default=None)


class Api:
    """One client's way to the APIs, of which any may be dead."""

    def __init__(
        self, addresses: Sequence[str], chance: random.Random, wrong_answers: list[str], is_over: threading.Event
    ):
        self._clients = [httpx.Client(base_url=address, timeout=ANSWER_SECONDS) for address in addresses]
        self._chance = chance
        self._wrong_answers = wrong_answers
        self._is_over = is_over

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The first answer that is not "later"; raises GaveUp when the run is over."""
        while True:
            try:
                response = self._chance.choice(self._clients).request(method, path, **arguments)
            except httpx.TransportError:
                self.pause()
                continue
            if response.status_code < 500:
                return response
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                self._wrong_answers.append(f"{method} {path}: {response.status_code} {response.text[:300]}")
            elif "Retry-After" not in response.headers:
                self._wrong_answers.append(f"{method} {path}: 503 without Retry-After: {response.text[:300]}")
            self.pause()

    def get(self, path: str) -> Json:
        response = self.call("GET", path)
        if response.status_code != httpx.codes.OK:
            raise LookupError(f"GET {path}: {response.status_code} {response.text[:300]}")
        return dict(response.json())

    def pause(self, seconds: float = PAUSE_SECONDS) -> None:
        if self._is_over.wait(seconds * self._chance.uniform(0.5, 1.5)):
            raise GaveUp


@dataclass
class Clients:
    """Threads that take the planned jobs one after the other until none is left or `stop_posting`."""

    addresses: Sequence[str]
    teachers: dict[str, str]  # kind -> id
    dataset: str
    planned: Iterator[PlannedJob]
    count: int
    told: list[Told] = field(default_factory=list)
    # Jobs whose engines the faults kill at sight.
    doomed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._is_posting_over = False
        self.threads = [threading.Thread(target=self._work, name=f"client-{n}", daemon=True) for n in range(self.count)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop_posting(self) -> None:
        self._is_posting_over = True

    def give_up(self) -> None:
        """Let everybody go home; jobs that are not over stay marked so."""
        self._is_posting_over = True
        self._is_over.set()
        for thread in self.threads:
            thread.join()

    @property
    def are_done(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads)

    def _work(self) -> None:
        while (told := self._next()) is not None:
            client = Client(self, told, self._is_over)
            try:
                client.run()
                told.is_done = True
            except GaveUp:
                return
            except Exception as error:
                told.wrong_answers.append(f"{type(error).__name__}: {error}")
            finally:
                client.api.close()

    def _next(self) -> Told | None:
        with self._lock:
            plan = None if self._is_posting_over else next(self.planned, None)
            if plan is None:
                return None
            told = Told(plan)
            self.told.append(told)
            return told


class Client:
    def __init__(self, clients: Clients, told: Told, is_over: threading.Event) -> None:
        self.clients = clients
        self.told = told
        self.plan = told.plan
        self.chance = random.Random(told.plan.seed)
        self.api = Api(clients.addresses, self.chance, told.wrong_answers, is_over)

    def run(self) -> None:
        self.post()
        match self.plan.intent:
            case Intent.CANCEL:
                self.cancel()
            case Intent.PAUSE:
                self.pause_and_resume()
            case Intent.DOOM | Intent.DOOM_RETRY:
                self.doom()
                self.follow()
                self.clients.doomed.discard(self.job_id)
                if self.plan.intent is Intent.DOOM_RETRY and self.told.is_doomed:
                    self.ask("retry")
                    self.follow()
                return
            case Intent.CANCEL_RETRY:
                self.cancel()
                self.follow()
                if self.told.ends == ["cancelled"]:
                    self.told.is_cancel_accepted = False
                    self.ask("retry")
                    self.follow()
                return
        self.follow()
        if self.told.ends[-1] == "succeeded":
            self.download()
        if self.plan.intent is Intent.DELETE:
            self.delete()

    @property
    def job_id(self) -> str:
        assert self.told.job_id is not None
        return self.told.job_id

    @property
    def path(self) -> str:
        return f"/jobs/{self.job_id}"

    def post(self) -> None:
        plan = self.plan
        body = {
            **plan.spec.body,
            "teacher": self.clients.teachers[plan.spec.teacher],
            "dataset": self.clients.dataset,
            "metadata": {"chaos": plan.key},
        }
        if plan.intent is Intent.LIMIT:
            body["time_limit_seconds"] = TIME_LIMIT_SECONDS
        # Some ask again although they have their answer, as a client does whose own record was lost.
        for _ in range(self.chance.choice([1, 1, 2, 3])):
            response = self.api.call("POST", "/jobs", json=body, headers={"Idempotency-Key": plan.key})
            if response.status_code not in (httpx.codes.OK, httpx.codes.ACCEPTED):
                raise LookupError(f"POST /jobs: {response.status_code} {response.text[:500]}")
            self.told.job_ids.add(response.json()["id"])

    def cancel(self) -> None:
        self.wait_for_moment()
        if self.ask("cancel") or self.status() == "cancelled":
            self.told.is_cancel_accepted = True

    def pause_and_resume(self) -> None:
        self.wait_for_moment()
        self.ask("pause")
        self.wait(lambda job: job["terminal"] or job["status"] == "paused")
        if self.status() != "paused":
            return  # it was over before
        self.told.is_pause_seen = True
        self.api.pause(self.chance.uniform(0.5, 5.0))
        self.ask("resume")

    def doom(self) -> None:
        """Have its engines killed at sight, if the answer to the post did not come too late for that."""
        if self.api.get(self.path)["attempt"] == 0:
            self.told.is_doomed = True
            self.clients.doomed.add(self.job_id)

    def delete(self) -> None:
        response = self.api.call("DELETE", self.path)
        # 404: the answer to the first try was lost.
        if response.status_code not in (httpx.codes.NO_CONTENT, httpx.codes.NOT_FOUND):
            raise LookupError(f"DELETE {self.path}: {response.status_code} {response.text[:300]}")
        self.told.is_deleted = True

    def download(self) -> None:
        """Fetch the whole archive; what breaks off is fetched again."""
        listed = self.api.get(f"{self.path}/artifacts")["data"]
        announced = {row["name"]: row["sha256"] for row in listed}
        content = self.api.call("GET", f"{self.path}/artifacts/{ARCHIVE}").content
        self.told.archive_sha256 = hashlib.sha256(content).hexdigest()
        if self.told.archive_sha256 != announced.get(ARCHIVE):
            self.told.wrong_answers.append(
                f"{ARCHIVE} has sha256 {self.told.archive_sha256}, announced was {announced.get(ARCHIVE)}"
            )

    def ask(self, what: str) -> bool:
        """POST an action; True when it was accepted, False when the job's status did not allow it."""
        response = self.api.call("POST", f"{self.path}/{what}")
        if response.status_code not in (httpx.codes.ACCEPTED, httpx.codes.CONFLICT):
            raise LookupError(f"POST {self.path}/{what}: {response.status_code} {response.text[:300]}")
        return response.status_code == httpx.codes.ACCEPTED

    def status(self) -> str:
        return str(self.api.get(self.path)["status"])

    def wait_for_moment(self) -> None:
        match self.plan.moment:
            case Moment.POSTED:
                return
            case Moment.RUNNING:
                self.wait(lambda job: job["terminal"] or job["status"] == "running")
            case Moment.CHECKPOINT:
                self.wait(lambda job: job["terminal"] or self.has_checkpoint())
            case Moment.LATE:
                self.wait(lambda job: job["terminal"] or job["progress"] >= 0.7)

    def has_checkpoint(self) -> bool:
        after = ""
        while True:
            page = self.api.get(f"{self.path}/events?limit=200{after}")
            if any(event["type"] == "checkpoint" for event in page["data"]):
                return True
            if not page["has_more"]:
                return False
            after = f"&after={page['next']}"

    def follow(self) -> None:
        """Until it is over, and a little longer: what is over stays so."""
        self.told.ends.append(str(self.wait(lambda job: bool(job["terminal"]))["status"]))
        self.api.pause()
        if (status := self.status()) != self.told.ends[-1]:
            self.told.wrong_answers.append(f"{self.job_id} was {self.told.ends[-1]} for good, and became {status}")

    def wait(self, is_it: Callable[[Json], bool]) -> Json:
        while not is_it(job := self.api.get(self.path)):
            self.api.pause()
        return job


class Importer(threading.Thread):
    """Uploads datasets and registers teachers, one after the other, while everything is killed."""

    def __init__(
        self,
        addresses: Sequence[str],
        uploads: dict[str, bytes],
        teacher_folder: str,
        *,
        seed: int,
        pause_seconds: float,
    ) -> None:
        super().__init__(name="imports", daemon=True)
        self.uploads = uploads
        self.teacher_folder = teacher_folder
        self.pause_seconds = pause_seconds
        self.wrong_answers: list[str] = []
        # (kind, id) of what was accepted.
        self.accepted: list[tuple[str, str]] = []
        self._is_over = threading.Event()
        self._is_ending = False
        self._chance = random.Random(f"imports {seed}")
        self._api = Api(addresses, self._chance, self.wrong_answers, self._is_over)

    def run(self) -> None:
        try:
            while not self._is_ending:
                kind = "teachers" if len(self.accepted) % 3 == 2 else "datasets"
                row_id = self.register_teacher() if kind == "teachers" else self.upload_dataset()
                self.accepted.append((kind, row_id))
                while not self._api.get(f"/{kind}/{row_id}")["terminal"]:
                    self._api.pause()
                self._wait(self.pause_seconds * self._chance.uniform(0.5, 1.5))
        except GaveUp:
            pass
        except Exception as error:
            self.wrong_answers.append(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """End after the import that is under way."""
        self._is_ending = True

    def give_up(self) -> None:
        self.stop()
        self._is_over.set()
        if self.ident is not None:
            self.join()
        self._api.close()

    def upload_dataset(self) -> str:
        files = {split: (f"{split}.csv", content, "text/csv") for split, content in self.uploads.items()}
        return self._accepted(self._api.call("POST", "/datasets", data={"name": "words"}, files=files))

    def register_teacher(self) -> str:
        """By its folder, or by sending its files."""
        if self._chance.random() < 0.5:
            source = {"type": "folder", "path": self.teacher_folder}
            return self._accepted(self._api.call("POST", "/teachers", json={"source": source}))
        paths = [
            path for path in Path(self.teacher_folder).iterdir() if path.suffix in (".json", ".safetensors", ".txt")
        ]
        files = [("file", (path.name, path.read_bytes())) for path in paths]
        return self._accepted(self._api.call("POST", "/teachers/upload", files=files))

    def _accepted(self, response: httpx.Response) -> str:
        if response.status_code != httpx.codes.ACCEPTED:
            raise LookupError(f"an import was answered with {response.status_code} {response.text[:300]}")
        return str(response.json()["id"])

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_ending and time.monotonic() < end:
            self._api.pause()
