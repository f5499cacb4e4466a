"""`stillhouse demo`: a real distillation, from an upload to a classified sentence, through the HTTP API only.

Read `tell` from top to bottom: it is what a client of the API does.
"""

import contextlib
import sys
import time
import uuid
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app import seeds
from app.demo.api import Api, DemoError, Json, Refused
from app.demo.classify import classify
from app.demo.download import download, unpack, verify
from app.demo.materials import Materials, shipped
from app.demo.screen import JobView, done, make_console, results_table, step, warn
from app.demo.server import StartedServer, is_free, start, what_is_missing
from app.home_lock import running_address
from app.settings import Settings, get_settings

POLL_SECONDS = 0.5

# Of a server that is on another machine, in a container, or was not told of the folder.
_CANNOT_READ_FOLDER = frozenset({"folder_not_allowed", "folder_not_found", "folder_not_readable"})


def run(*, url: str | None, port: int | None, output: Path | None) -> int:
    """Run the demo and return the process's exit status."""
    console = make_console()
    settings = get_settings()
    output = output or settings.home / "demo"
    goes_on = "at the next `stillhouse up`"
    try:
        with contextlib.ExitStack() as stack:
            try:
                address, started = _find_server(console, stack, settings, url, port)
                if started is None:
                    goes_on = f"at {address}; POST {address}/jobs/ID/cancel stops it"
                tell(console, stack.enter_context(Api(address)), shipped(), output)
                if started is not None:
                    _say_goodbye(console, started)
            except KeyboardInterrupt:
                console.print(f"\nInterrupted. A job that runs goes on {goes_on}.", soft_wrap=True)
                return 130
    except (DemoError, OSError) as error:
        console.print(Text(f"stillhouse demo: {error}", style="red"), soft_wrap=True)
        return 1
    return 0


def tell(console: Console, api: Api, materials: Materials, output: Path) -> Json:
    """Distil, download, verify, use and compare; return the finished job."""
    console.print(f"Stillhouse at {api.address}")
    # First, because a server may be without it: what is uploaded in vain stays there.
    teacher = _register_teacher(api, materials)
    with step(console, "Uploading the dataset") as current:
        dataset = api.upload("/datasets", {"name": materials.dataset_name}, materials.dataset_files)
        dataset = api.wait_until_ready(f"/datasets/{dataset['id']}")
        current.text = (
            f"Dataset {dataset['id']}: {len(dataset['labels'])} labels, "
            + ", ".join(f"{rows:,} {split}" for split, rows in dataset["rows"].items() if rows)
            + " rows"
        )
    with step(console, "Waiting for the teacher") as current:
        teacher = api.wait_until_ready(f"/teachers/{teacher['id']}")
        current.text = (
            f"Teacher {teacher['id']}: {teacher['name']}, {teacher['family']}, {teacher['layers']} layers, "
            f"{teacher['parameters'] / 1e6:.1f} M parameters"
        )

    body = {**materials.job, "teacher": teacher["id"], "dataset": dataset["id"]}
    job = api.post("/jobs", body, idempotency_key=str(uuid.uuid4()))
    method = body["method"]["type"]
    done(console, f"Job {job['id']}: method {method}, student of {body['student']['layers']} layers")
    job = _follow(console, api, job)

    folder = output / job["id"]
    _fetch_student(console, api, job, folder)
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
    console.print(f"\nThe student       {folder / 'student'}", soft_wrap=True)
    console.print(f"Swagger UI        {api.address}/docs", soft_wrap=True)
    console.print(f"This job          {api.address}/jobs/{job['id']}", soft_wrap=True)
    return job


def _find_server(
    console: Console, stack: contextlib.ExitStack, settings: Settings, url: str | None, port: int | None
) -> tuple[str, StartedServer | None]:
    """The address of a running server; where none runs, one is started, and stopped with the stack.

    One that nobody named and that is not this home's, such as a cluster's, is passed over where it has no teacher.
    """
    wanted_port = settings.port if port is None else port
    # An `up` of this home may serve another port: its address stands in its lock file.
    address = url or running_address(settings.home) or f"http://127.0.0.1:{wanted_port}"
    missing = what_is_missing(address)
    running = running_address(settings.home)
    if missing == "":
        if url is not None or port is not None or running is not None or _has_teacher(address):
            return address, None
        console.print(f"What answers at {address} lacks the demo's teacher, so another is started.", soft_wrap=True)
    elif missing is not None and (url is not None or running is not None):
        raise DemoError(f"The server at {address} is not ready: {missing}")
    if url is not None:
        raise DemoError(f"No Stillhouse server answers at {url}. Start one with: stillhouse up")
    if port is None and not is_free(wanted_port):
        wanted_port = 0  # another program has it, and nobody asked for just this one
    with step(console, f"Starting the API and a worker; their data is in {settings.home}"):
        started = stack.enter_context(start(settings.home, wanted_port))
    return started.address, started


def _has_teacher(address: str) -> bool:
    try:
        with Api(address) as api:
            return api.find(f"/teachers/{seeds.DEMO_TEACHER_ID}") is not None
    except DemoError:  # it lets nobody in, or is another's server that answers to anything
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
        raise DemoError(seeds.HOW_TO_GET_THE_TEACHER)
    source = {"type": "folder", "path": str(materials.teacher_folder)}
    try:
        return api.post("/teachers", {"source": source, "name": materials.teacher_name})
    except Refused as refusal:
        if refusal.code not in _CANNOT_READ_FOLDER:
            raise
        raise DemoError(
            f"The server at {api.address} lacks the demo's teacher ({seeds.DEMO_TEACHER_ID}), which `stillhouse up` "
            f"brings along, and cannot read it from {materials.teacher_folder}. Run the demo without --url and --port, "
            "so that it starts a server of its own; stop a `stillhouse up` that lacks the teacher before."
        ) from refusal


def _follow(console: Console, api: Api, job: Json) -> Json:
    started_at = time.monotonic()
    with JobView(console) as view:
        while not job["terminal"]:
            view.show(job)
            time.sleep(POLL_SECONDS)
            job = api.get(f"/jobs/{job['id']}")
        view.show(job)
    if job["status"] != "succeeded":
        error = job["error"] or {}
        raise DemoError(f"Job {job['id']} {job['status']}: {error.get('code')}: {error.get('message')}")
    done(console, "Job succeeded", seconds=time.monotonic() - started_at)
    for warning in job["warnings"]:
        warn(console, warning)
    return job


def _fetch_student(console: Console, api: Api, job: Json, folder: Path) -> None:
    artifacts = api.get(f"/jobs/{job['id']}/artifacts")["data"]
    whole = next(artifact for artifact in artifacts if artifact["name"] == "student.tar.gz")
    archive = folder / whole["name"]
    with step(console, "Downloading the student") as current:
        download(
            api.http,
            f"/jobs/{job['id']}/artifacts/{whole['name']}",
            archive,
            size_bytes=whole["size_bytes"],
            sha256=whole["sha256"],
        )
        current.text = f"Downloaded {archive.name}: {whole['size_bytes'] / 1e6:.1f} MB, sha256 as announced"
    with step(console, "Unpacking") as current:
        unpack(archive, folder / "student")
        count = verify(folder / "student")
        current.text = f"Unpacked {count + 1} files; each has the sha256 of its manifest"
