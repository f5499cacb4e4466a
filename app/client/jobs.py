"""A job from its post to its student on disk."""

import time
from pathlib import Path

from rich.console import Console

from app.client.api import Api, ClientError, Json
from app.client.download import download, unpack, verify
from app.client.screen import JobView, done, step, warn

POLL_SECONDS = 0.5


def follow(console: Console, api: Api, job: Json) -> Json:
    """Show the job's progress until it has succeeded; return it as it is then. Raises ClientError where it has not."""
    started_at = time.monotonic()
    with JobView(console) as view:
        while not job["terminal"]:
            view.show(job)
            time.sleep(POLL_SECONDS)
            job = api.get(f"/jobs/{job['id']}")
        view.show(job)
    if job["status"] != "succeeded":
        error = job["error"]
        reason = f": {error['code']}: {error['message']}" if error else "."
        raise ClientError(f"Job {job['id']} {job['status']}{reason}")
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
        unpack(archive, folder)
        count = verify(folder)
        current.text = f"Unpacked {count + 1} files; each has the sha256 of its manifest"
