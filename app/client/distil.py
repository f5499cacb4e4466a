"""`stillhouse distil`: from a file of rows and a teacher to a student in a folder, through the HTTP API alone.

Read `distil` from top to bottom: it is what a client of the API does.
"""

import contextlib
import math
import os
import shlex
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.client.api import Api, ClientError, Json, NoAnswer, NotFound, Refused, StillPending
from app.client.arguments import DatasetArgument, TeacherArgument
from app.client.download import PlaceTaken
from app.client.jobs import NoStudent, fetch_student, follow, upload_teacher
from app.client.screen import (
    describe_dataset,
    describe_leads,
    describe_teacher,
    done,
    make_console,
    results_table,
    step,
    warn,
)
from app.client.server import connect
from app.domain.ids import new_id
from app.settings import get_settings

# Of a worker that is free; after that the person is told what the wait is for.
_HINT_SECONDS = 60.0


@dataclass(frozen=True)
class Errand:
    """What a command is sent for: a student out of a server, that of `url` or this home's, into the folder `output`."""

    console: Console
    api: Api
    url: str | None
    output: Path

    def way_back(self, job_id: str) -> str:
        """The command that goes on where this one stops."""
        url = [] if self.url is None else ["--url", self.url]
        return shlex.join(["stillhouse", "fetch", job_id, *url, "--output", str(self.output)])


def run_distil(*, data: DatasetArgument, teacher: TeacherArgument, body: Json, url: str | None, output: Path) -> int:
    """Run `stillhouse distil` and return the process's exit status."""
    return _run("distil", url, output, lambda errand: distil(errand, data, teacher, body))


def run_fetch(*, job_id: str, url: str | None, output: Path) -> int:
    """Run `stillhouse fetch` and return the process's exit status."""
    return _run("fetch", url, output, lambda errand: fetch(errand, job_id))


def distil(errand: Errand, data: DatasetArgument, teacher_argument: TeacherArgument, body: Json) -> None:
    """Send the server the teacher and the rows, post the job, wait for it and bring its student."""
    console, api = errand.console, errand.api
    _check_body(api, body)
    with step(console, "Getting the teacher") as current:
        teacher_id = _register_teacher(api, teacher_argument)
        teacher = _wait_until_checked(console, api, f"/teachers/{teacher_id}")
        current.text = describe_teacher(teacher)
    with step(console, "Getting the dataset") as current:
        dataset_id = _register_dataset(api, data)
        dataset = _wait_until_checked(console, api, f"/datasets/{dataset_id}")
        current.text = describe_dataset(dataset)
    for warning in dataset["warnings"]:
        warn(console, warning)

    body = {**body, "teacher": teacher["id"], "dataset": dataset["id"]}
    body["student"] = {"layers": max(1, teacher["layers"] // 2), **(body.get("student") or {})}
    job = _post_job(console, api, body)
    _bring(
        errand,
        job,
        teacher,
        f"Job {job['id']}: method {job['method']['type']}, student of {job['student']['layers']} layers",
    )


def fetch(errand: Errand, job_id: str) -> None:
    """Wait for a job that was posted before and bring its student."""
    job = errand.api.get(f"/jobs/{job_id}")
    _bring(errand, job, errand.api.find(f"/teachers/{job['teacher']}"), f"Job {job_id}: {job['status']}")


def _run(command: str, url: str | None, output: Path, work: Callable[[Errand], None]) -> int:
    console = make_console()
    output = Path(os.path.realpath(output))
    try:
        _check_place(output)
        with contextlib.ExitStack() as stack:
            api = connect(console, stack, get_settings(), url=url)
            console.print(f"Stillhouse at {api.address}", soft_wrap=True)
            work(Errand(console, api, url, output))
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    except (ClientError, OSError) as error:
        console.print(Text(f"stillhouse {command}: {error}", style="red"), soft_wrap=True)
        return 1
    return 0


def _check_place(output: Path) -> None:
    # Before anything is started: after hours of work it would be late to say so.
    is_own = output == Path.cwd() or output.is_mount()  # in the place of which nothing can be put
    if output.exists() and (is_own or not output.is_dir() or any(output.iterdir())):
        raise ClientError(f"{output} is there already. Name another folder for the student with --output.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise ClientError(f"The student cannot be put into {output.parent}: {error.strerror}.") from error


def _check_body(api: Api, body: Json) -> None:
    """Have the server refuse what it would refuse of any teacher and dataset, before they are sent to it: of a job on
    those that nobody has it says first what else is wrong."""
    nobodys = {"teacher": new_id("teacher"), "dataset": new_id("dataset")}
    student = {"layers": 1, **(body.get("student") or {})}
    try:
        api.post("/jobs", {**body, **nobodys, "student": student}, idempotency_key=str(uuid.uuid4()))
    except Refused as refusal:
        if refusal.code != "teacher_not_found":
            raise


def _register_teacher(api: Api, argument: TeacherArgument) -> str:
    if argument.known_id is not None:
        return argument.known_id
    if argument.folder is not None:
        return str(upload_teacher(api, argument.folder, argument.folder.resolve().name)["id"])
    return str(api.post("/teachers", {"source": argument.source})["id"])


def _register_dataset(api: Api, data: DatasetArgument) -> str:
    if data.known_id is not None:
        return data.known_id
    return str(api.upload("/datasets", data.columns, data.files.items())["id"])


def _wait_until_checked(console: Console, api: Api, path: str) -> Json:
    try:
        return api.wait_until_ready(path, seconds=_HINT_SECONDS)
    except StillPending as pending:
        console.print(f"  {pending} It is waited for.", soft_wrap=True)
    return api.wait_until_ready(path, seconds=math.inf)


def _post_job(console: Console, api: Api, body: Json) -> Json:
    key = str(uuid.uuid4())
    try:
        try:
            return api.post("/jobs", body, idempotency_key=key)
        except Refused as refusal:
            # A classifier of other classes may be a mistake, so that is left to the person.
            if refusal.code != "teacher_needs_tuning" or "teacher_tuning" in body:
                raise
        console.print("  The teacher is no classifier yet, so it is tuned on the dataset first (teacher_tuning).")
        return api.post("/jobs", {**body, "teacher_tuning": {}}, idempotency_key=f"{key}-tuned")
    except (KeyboardInterrupt, NoAnswer):
        console.print(f"\nThe job may have been posted: GET {api.address}/jobs lists it.", soft_wrap=True)
        raise


def _bring(errand: Errand, job: Json, teacher: Json | None, title: str) -> None:
    console, output = errand.console, errand.output
    archive = output.with_name(f"{output.name}.{job['id']}.tar.gz")
    try:
        done(console, title)
        job = _finished(errand, job, archive)
    except (NoStudent, NotFound, PlaceTaken):
        raise
    except BaseException:
        console.print(
            f"\nJob {job['id']} is not lost. This waits for it and brings its student:\n  {errand.way_back(job['id'])}",
            soft_wrap=True,
        )
        raise
    archive.unlink()
    console.print()
    layers = {"teacher": teacher and teacher["layers"], "student": job["student"]["layers"]}
    console.print(results_table(job["result"], layers=layers, main_method=job["method"]["type"]))
    for sentence in describe_leads(job["result"]):
        console.print(sentence, soft_wrap=True)
    console.print(f"\nThe student     {output}", soft_wrap=True)
    console.print(f"In Python       transformers.pipeline('text-classification', {str(output)!r})", soft_wrap=True)


def _finished(errand: Errand, job: Json, archive: Path) -> Json:
    """The job once it has succeeded, with its student in its place."""
    while True:
        try:
            job = follow(errand.console, errand.api, job)
            fetch_student(errand.console, errand.api, job, archive=archive, folder=errand.output)
            return job
        except NoAnswer as error:
            errand.api.go_after(error)
