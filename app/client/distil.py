"""`stillhouse distil`: from a file of rows and a teacher to a student in a folder, through the HTTP API alone.

Read `distil` from top to bottom: it is what a client of the API does.
"""

import contextlib
import math
import uuid
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.client.api import Api, ClientError, Json, Refused, StillPending
from app.client.arguments import DatasetArgument, TeacherArgument
from app.client.jobs import fetch_student, follow
from app.client.screen import describe_dataset, describe_teacher, done, make_console, results_table, step, warn
from app.client.server import find_or_start
from app.settings import get_settings

# Of a worker that is free; after that the person is told what the wait is for.
_HINT_SECONDS = 60.0

# Of a server that was not told of the folder, or is on another machine or in a container.
_CANNOT_READ_FOLDER = frozenset({"folder_not_allowed", "folder_not_found", "folder_not_readable"})


def run_distil(*, data: DatasetArgument, teacher: TeacherArgument, body: Json, url: str | None, output: Path) -> int:
    """Run `stillhouse distil` and return the process's exit status."""
    folders = [] if teacher.folder is None else [teacher.folder]
    return _run("distil", url, output, folders, lambda console, api: distil(console, api, data, teacher, body, output))


def run_fetch(*, job_id: str, url: str | None, output: Path) -> int:
    """Run `stillhouse fetch` and return the process's exit status."""
    return _run("fetch", url, output, [], lambda console, api: fetch(console, api, job_id, output))


def distil(
    console: Console, api: Api, data: DatasetArgument, teacher_argument: TeacherArgument, body: Json, output: Path
) -> None:
    """Have the server take what it lacks, post the job, wait for it and bring its student."""
    # First, because a server may not be allowed to read it: what is uploaded in vain stays there.
    teacher = _register_teacher(api, teacher_argument)
    dataset = _upload_dataset(console, api, data)
    with step(console, "Waiting for the teacher") as current:
        teacher = _wait_until_ready(console, api, f"/teachers/{teacher['id']}")
        current.text = describe_teacher(teacher)

    body = {**body, "teacher": teacher["id"], "dataset": dataset["id"]}
    body["student"] = {"layers": max(1, teacher["layers"] // 2), **(body.get("student") or {})}
    job = _post_job(console, api, body)
    done(console, f"Job {job['id']}: method {job['method']['type']}, student of {job['student']['layers']} layers")
    _bring(console, api, job, teacher, output)


def fetch(console: Console, api: Api, job_id: str, output: Path) -> None:
    """Wait for a job that was posted before and bring its student."""
    job = api.get(f"/jobs/{job_id}")
    _bring(console, api, job, api.find(f"/teachers/{job['teacher']}"), output)


def _run(
    command: str, url: str | None, output: Path, teacher_dirs: list[Path], work: Callable[[Console, Api], None]
) -> int:
    console = make_console()
    try:
        _check_is_free(output)
        with contextlib.ExitStack() as stack:
            address, _ = find_or_start(
                console, stack, get_settings(), url=url, passes_over=_why_not_this_one, teacher_dirs=teacher_dirs
            )
            console.print(f"Stillhouse at {address}", soft_wrap=True)
            work(console, stack.enter_context(Api(address)))
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    except (ClientError, OSError) as error:
        console.print(Text(f"stillhouse {command}: {error}", style="red"), soft_wrap=True)
        return 1
    return 0


def _check_is_free(output: Path) -> None:
    # Before anything is started: after hours of work it would be late to say so.
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ClientError(f"{output} is there already. Name another folder for the student with --output.")


def _why_not_this_one(address: str) -> str:
    return f"What answers at {address} is not of this home, so another is started; --url {address} would take it."


def _register_teacher(api: Api, argument: TeacherArgument) -> Json:
    if argument.known_id is not None:
        return api.get(f"/teachers/{argument.known_id}")
    try:
        return api.post("/teachers", {"source": argument.source})
    except Refused as refusal:
        if refusal.code not in _CANNOT_READ_FOLDER or argument.folder is None:
            raise
        raise ClientError(
            f"The server at {api.address} cannot read the teacher from {argument.folder}: {refusal}\n"
            "A server that this command starts itself may read it: stop the `stillhouse up` of this home, or leave "
            "--url out."
        ) from refusal


def _upload_dataset(console: Console, api: Api, data: DatasetArgument) -> Json:
    with step(console, "Uploading the dataset" if data.known_id is None else "Looking at the dataset") as current:
        dataset_id = data.known_id
        if dataset_id is None:
            dataset_id = api.upload("/datasets", dict(data.columns), dict(data.files))["id"]
        dataset = _wait_until_ready(console, api, f"/datasets/{dataset_id}")
        current.text = describe_dataset(dataset)
    for warning in dataset["warnings"]:
        warn(console, warning)
    return dataset


def _wait_until_ready(console: Console, api: Api, path: str) -> Json:
    try:
        return api.wait_until_ready(path, seconds=_HINT_SECONDS)
    except StillPending as pending:
        console.print(f"  {pending} It is waited for.", soft_wrap=True)
    return api.wait_until_ready(path, seconds=math.inf)


def _post_job(console: Console, api: Api, body: Json) -> Json:
    key = str(uuid.uuid4())
    try:
        return api.post("/jobs", body, idempotency_key=key)
    except Refused as refusal:
        # A classifier of other classes may be a mistake, so that is left to the person.
        if refusal.code != "teacher_needs_tuning":
            raise
    console.print("  The teacher is no classifier yet, so it is tuned on the dataset first (teacher_tuning).")
    return api.post("/jobs", {**body, "teacher_tuning": {}}, idempotency_key=f"{key}-tuned")


def _bring(console: Console, api: Api, job: Json, teacher: Json | None, output: Path) -> None:
    archive = output.with_name(f"{output.name}.{job['id']}.tar.gz")
    try:
        job = follow(console, api, job)
        fetch_student(console, api, job, archive=archive, folder=output)
    except KeyboardInterrupt:
        console.print(
            f"\nJob {job['id']} is not lost: `stillhouse fetch {job['id']}` waits for it and brings its student.",
            soft_wrap=True,
        )
        raise
    archive.unlink()
    console.print()
    layers = {"teacher": teacher and teacher["layers"], "student": job["student"]["layers"]}
    console.print(results_table(job["result"], layers=layers, main_method=job["method"]["type"]))
    console.print(f"\nThe student     {output}", soft_wrap=True)
    console.print(
        f"In Python       transformers.pipeline('text-classification', model={str(output)!r})", soft_wrap=True
    )
