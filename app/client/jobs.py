"""The steps from a teacher's folder to a student on disk."""

import time
from pathlib import Path

from rich.console import Console

from app.client.api import Api, ClientError, Json
from app.client.download import download, unpack
from app.client.screen import JobView, done, step, warn

POLL_SECONDS = 0.5


class NoStudent(ClientError):
    """The job is over, and has not succeeded."""


# Of what a model's folder may hold: never pickles, nor what a training left beside it.
_TEACHER_SUFFIXES = (".json", ".safetensors", ".txt")


def upload_teacher(api: Api, folder: Path, name: str) -> Json:
    """Send a model's folder to be a teacher. Raises ClientError where it holds no file that could be one of a model."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix in _TEACHER_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise ClientError(
            f"{folder} has no model: a teacher is a folder as `save_pretrained` writes it, with config.json, "
            "model.safetensors and the tokenizer's files."
        )
    return api.upload("/teachers/upload", {"name": name}, [("file", path) for path in files])


def follow(console: Console, api: Api, job: Json) -> Json:
    """Show the job's progress until it has succeeded; return it as it is then. Raises NoStudent where it has not."""
    started_at = time.monotonic()
    address = f"{api.address}/jobs/{job['id']}"
    is_told = False
    with JobView(console) as view:
        while not job["terminal"]:
            view.show(job)
            if job["status"] == "paused" and not is_told:
                is_told = True
                console.print(f"  It is paused: POST {address}/resume has it go on.", soft_wrap=True)
            time.sleep(POLL_SECONDS)
            job = api.get(f"/jobs/{job['id']}")
        view.show(job)
    if job["status"] != "succeeded":
        error = job["error"]
        reason = f": {error['code']}: {error['message']}" if error else "."
        raise NoStudent(f"Job {job['id']} {job['status']}{reason} POST {address}/retry tries it again.")
    done(console, "Job succeeded", seconds=time.monotonic() - started_at)
    for warning in job["warnings"]:
        warn(console, f"{warning['code']}: {warning['message']}")
    return job


def fetch_student(console: Console, api: Api, job: Json, *, archive: Path, folder: Path) -> None:
    """The finished job's student as a folder, by way of `archive`, which stays; each file proved by its hash."""
    artifacts = api.get(f"/jobs/{job['id']}/artifacts")["data"]
    whole = next(artifact for artifact in artifacts if artifact["name"] == "student.tar.gz")
    with step(console, "Downloading the student") as current:
        download(
            api.http,
            f"/jobs/{job['id']}/artifacts/{whole['name']}",
            archive,
            size_bytes=whole["size_bytes"],
            sha256=whole["sha256"],
        )
        current.text = f"Downloaded {whole['name']}: {whole['size_bytes'] / 1e6:.1f} MB, sha256 as announced"
    with step(console, "Unpacking") as current:
        count = unpack(archive, folder)
        current.text = f"Unpacked {count + 1} files; each has the sha256 of its manifest"
