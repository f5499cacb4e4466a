"""What the service has left, seen from outside: rows by SQL, objects by listing, downloads over HTTP, /proc, folders.

Nothing here goes through the service's own repositories or object store: what they get wrong has to show.
"""

import hashlib
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.chaos.cluster import Cluster
from tests.chaos.servers import BUCKET
from tests.fixtures.servers import s3_client

Row = dict[str, Any]

OBJECT_ROOT = "chaos/"
ARCHIVE = "student.tar.gz"


@dataclass
class Download:
    """The archive of a job, fetched anew through the API."""

    sha256: str
    files: dict[str, str]  # name -> sha256 of what came out
    manifest: Row
    announced: dict[str, str]  # name -> sha256 as GET .../artifacts lists them


@dataclass
class Observed:
    jobs: dict[str, Row] = field(default_factory=dict)
    events: dict[str, list[Row]] = field(default_factory=dict)
    metrics: dict[str, list[Row]] = field(default_factory=dict)
    attempts: dict[str, list[Row]] = field(default_factory=dict)
    artifacts: dict[str, list[Row]] = field(default_factory=dict)
    checkpoints: dict[str, list[Row]] = field(default_factory=dict)
    datasets: dict[str, Row] = field(default_factory=dict)
    teachers: dict[str, Row] = field(default_factory=dict)
    cleanups: list[Row] = field(default_factory=list)
    # Key without the store's own prefix -> size.
    objects: dict[str, int] = field(default_factory=dict)
    # Key of an index -> the files it lists.
    cache_indices: dict[str, list[Row]] = field(default_factory=dict)
    downloads: dict[str, Download] = field(default_factory=dict)
    # Job -> why its archive could not be had.
    broken_downloads: dict[str, str] = field(default_factory=dict)
    # Of the service, with nothing left to do: engines, and what lies in work and temporary folders.
    processes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    # Told by whoever watched meanwhile.
    accidents: list[str] = field(default_factory=list)


def observe(cluster: Cluster) -> Observed:
    """Look at everything now. The service is up and has nothing left to do."""
    observed = Observed()
    with psycopg.connect(cluster.database_url, row_factory=dict_row) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

        def rows(table: str, order: str) -> list[Row]:
            return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()

        observed.jobs = {row["id"]: row for row in rows("jobs", "created_at, id")}
        observed.events = _by_job(rows("job_events", "job_id, sequence"))
        observed.metrics = _by_job(rows("metrics", "job_id, series, step"))
        observed.attempts = _by_job(rows("attempts", "job_id, number"))
        observed.artifacts = _by_job(rows("artifacts", "job_id, name"))
        observed.checkpoints = _by_job(rows("checkpoints", "job_id, step"))
        observed.datasets = {row["id"]: row for row in rows("datasets", "id")}
        observed.teachers = {row["id"]: row for row in rows("teachers", "id")}
        observed.cleanups = rows("object_cleanups", "object_prefix")
    _list_objects(cluster.bucket_variables, observed)
    for job_id, job in observed.jobs.items():
        if job["status"] == "succeeded":
            try:
                observed.downloads[job_id] = download(cluster.addresses[0], job_id)
            except (httpx.HTTPError, tarfile.TarError, OSError, EOFError) as error:
                observed.broken_downloads[job_id] = f"{type(error).__name__}: {error}"
    return observed


def pending_cleanups(database_url: str, *, within_seconds: float) -> int:
    """How many parts of the object store the sweep will look through within that time."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM object_cleanups WHERE due_at < now() + make_interval(secs => %s)", [within_seconds]
        ).fetchone()
    assert row is not None
    return int(row[0])


def statuses(database_url: str) -> dict[str, Row]:
    """Where each job stands, for whoever watches."""
    with psycopg.connect(database_url, row_factory=dict_row, connect_timeout=2) as connection:
        return {row["id"]: row for row in connection.execute("SELECT id, status, phase, fruitless_attempts FROM jobs")}


def download(address: str, job_id: str) -> Download:
    with httpx.Client(base_url=address, timeout=60.0) as http:
        listed = http.get(f"/jobs/{job_id}/artifacts").raise_for_status().json()["data"]
        content = http.get(f"/jobs/{job_id}/artifacts/{ARCHIVE}").raise_for_status().content
    files: dict[str, str] = {}
    manifest: Row = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar.getmembers():
            extracted = tar.extractfile(member)
            assert extracted is not None, member.name
            data = extracted.read()
            name = member.name.removeprefix("student/")
            files[name] = hashlib.sha256(data).hexdigest()
            if name == "manifest.json":
                manifest = json.loads(data)
    announced = {row["name"]: row["sha256"] for row in listed}
    return Download(hashlib.sha256(content).hexdigest(), files, manifest, announced)


def _by_job(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["job_id"]].append(row)
    return dict(found)


def _list_objects(variables: Mapping[str, str], observed: Observed) -> None:
    client = s3_client({**variables})
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            key = item["Key"].removeprefix(OBJECT_ROOT)
            observed.objects[key] = item["Size"]
            if key.startswith("cache/") and key.endswith("/index.json"):
                body = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
                observed.cache_indices[key] = json.loads(body)["files"]
