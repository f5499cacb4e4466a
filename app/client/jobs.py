"""The steps from a teacher's folder to a student on disk."""

import time
from pathlib import Path

import httpx
from rich.console import Console

from app.client.api import Api, ClientError, Json, Refused
from app.client.download import download, unpack
from app.client.screen import JobView, done, step, warn
from app.domain.teacher_files import NoTeacherFiles, files_of_teacher

POLL_SECONDS = 0.5


class NoStudent(ClientError):
    """The job is over, and has not succeeded."""


def upload_teacher(api: Api, folder: Path, name: str) -> Json:
    """Send a model's folder to be a teacher: the files that are one's, and no others. Raises ClientError where they
    make none."""
    try:
        names = files_of_teacher((path.name for path in folder.iterdir() if path.is_file()), place=str(folder))
    except NoTeacherFiles as error:
        raise ClientError(error.message) from error
    try:
        return api.upload("/teachers/upload", {"name": name[:200]}, [("file", folder / each) for each in names])
    except Refused as refusal:
        if refusal.status != httpx.codes.METHOD_NOT_ALLOWED:
            raise
        raise ClientError(
            f"The server at {api.address} is of an older release, which takes no uploads of teachers: upgrade it, or "
            "name the teacher by a repository of the hub or an id."
        ) from refusal


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
            _pause()
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


def _pause() -> None:
    time.sleep(POLL_SECONDS)


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
