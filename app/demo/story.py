"""`stillhouse demo`: a real distillation, from an upload to a classified sentence, through the HTTP API only.

Read `tell` from top to bottom: it is what a client of the API does.
"""

import contextlib
import sys
import uuid
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app import seeds
from app.client.api import Api, ClientError, Json
from app.client.jobs import fetch_student, follow, upload_teacher
from app.client.screen import (
    describe_dataset,
    describe_leads,
    describe_teacher,
    done,
    make_console,
    results_table,
    step,
)
from app.client.server import StartedServer, find_or_start
from app.demo.classify import classify
from app.demo.materials import Materials, shipped
from app.settings import get_settings


def run(*, url: str | None, port: int | None, output: Path | None) -> int:
    """Run the demo and return the process's exit status."""
    console = make_console()
    settings = get_settings()
    output = output or settings.home / "demo"
    goes_on = "at the next `stillhouse up`"
    try:
        with contextlib.ExitStack() as stack:
            try:
                address, started = find_or_start(
                    console, stack, settings, url=url, port=port, passes_over=_why_not_this_one
                )
                if started is None:
                    goes_on = f"at {address}; POST {address}/jobs/ID/cancel stops it"
                tell(console, stack.enter_context(Api(address)), shipped(), output)
                if started is not None:
                    _say_goodbye(console, started)
            except KeyboardInterrupt:
                console.print(f"\nInterrupted. A job that runs goes on {goes_on}.", soft_wrap=True)
                return 130
    except (ClientError, OSError) as error:
        console.print(Text(f"stillhouse demo: {error}", style="red"), soft_wrap=True)
        return 1
    return 0


def tell(console: Console, api: Api, materials: Materials, output: Path) -> Json:
    """Distil, download, verify, use and compare; return the finished job."""
    console.print(f"Stillhouse at {api.address}")
    teacher = _register_teacher(api, materials)
    with step(console, "Uploading the dataset") as current:
        dataset = api.upload("/datasets", {"name": materials.dataset_name}, materials.dataset_files.items())
        dataset = api.wait_until_ready(f"/datasets/{dataset['id']}")
        current.text = describe_dataset(dataset)
    with step(console, "Waiting for the teacher") as current:
        teacher = api.wait_until_ready(f"/teachers/{teacher['id']}")
        current.text = describe_teacher(teacher)

    body = {**materials.job, "teacher": teacher["id"], "dataset": dataset["id"]}
    job = api.post("/jobs", body, idempotency_key=str(uuid.uuid4()))
    method = body["method"]["type"]
    done(console, f"Job {job['id']}: method {method}, student of {body['student']['layers']} layers")
    job = follow(console, api, job)

    folder = output / job["id"]
    fetch_student(console, api, job, archive=folder / "student.tar.gz", folder=folder / "student")
    with step(console, "Loading the student with transformers.AutoModelForSequenceClassification") as current:
        answers = classify(folder / "student", materials.sentences)
        current.text = "Loaded with transformers.AutoModelForSequenceClassification; it says:"
    console.print()
    width = max(map(len, materials.sentences))
    for sentence, (label, probability) in zip(materials.sentences, answers, strict=True):
        console.print(f"  {sentence:<{width}}  →  {label} {probability:.0%}", soft_wrap=True)
    console.print()
    layers = {"teacher": teacher["layers"], "student": body["student"]["layers"]}
    console.print(results_table(job["result"], layers=layers, main_method=method))
    for sentence in describe_leads(job["result"]):
        console.print(sentence, soft_wrap=True)
    console.print(f"\nThe student       {folder / 'student'}", soft_wrap=True)
    console.print(f"Swagger UI        {api.address}/docs", soft_wrap=True)
    console.print(f"This job          {api.address}/jobs/{job['id']}", soft_wrap=True)
    return job


def _why_not_this_one(address: str) -> str:
    if _has_teacher(address):
        return ""
    return f"What answers at {address} lacks the demo's teacher, so another is started."


def _has_teacher(address: str) -> bool:
    try:
        with Api(address) as api:
            return api.find(f"/teachers/{seeds.DEMO_TEACHER_ID}") is not None
    except ClientError:  # it lets nobody in, or is another's server that answers to anything
        return False


def _say_goodbye(console: Console, started: StartedServer) -> None:
    if sys.stdin.isatty() and console.is_terminal:
        console.print("\nThe server keeps running. Ctrl-C stops it.")
        started.serve_until_interrupted()
    console.print("\nStopping the server. `stillhouse up` starts it again; the data stays.")


def _register_teacher(api: Api, materials: Materials) -> Json:
    """The teacher as the server has it, or takes it now; a worker may not have checked it yet."""
    # `stillhouse up` has the demo's teacher already; 90 MB more on every run would help nobody.
    seeded = materials.seeded_teacher_id
    if seeded is not None and (found := api.find(f"/teachers/{seeded}")) is not None:
        return found
    if materials.teacher_folder is None:
        raise ClientError(seeds.HOW_TO_GET_THE_TEACHER)
    return upload_teacher(api, materials.teacher_folder, materials.teacher_name)
