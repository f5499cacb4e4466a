"""The verdict: what the service has left, held against what its clients were told and what undisturbed runs gave.

Pure functions over plain data, so that tests can show each complaint.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from app.domain.jobs import RETRYABLE, TERMINAL, TRANSITIONS, JobStatus
from tests.chaos.clients import Told
from tests.chaos.observe import ARCHIVE, Download, Observed, Row
from tests.chaos.plan import Intent
from tests.chaos.references import Materials, Reference


class Kind(StrEnum):
    LOST = "lost"
    DOUBLED = "doubled"
    WRONG = "wrong"
    LEAKED = "leaked"


@dataclass(frozen=True)
class Violation:
    kind: Kind
    where: str
    what: str


# Why a job may fail that is meant to.
LIMIT_CODE = "time_limit_exceeded"
DEATH_CODES = {"engine_died", "worker_lost"}


def check(
    observed: Observed,
    told: Sequence[Told],
    imported: Sequence[tuple[str, str]],
    references: Mapping[str, Reference],
    materials: Materials,
) -> list[Violation]:
    """Everything that is not as it has to be."""
    found: list[Violation] = []
    for client in told:
        found += _check_posts(client, observed)
        if client.job_id is not None and client.job_id in observed.jobs and not client.is_deleted:
            found += _check_job(client, observed, references[client.plan.spec.name], _shares_tuning(client, told))
    found += _check_strangers(observed, told)
    found += _check_imports(observed, imported, materials)
    found += check_objects(observed)
    found += check_rest(observed)
    return found


def check_rest(observed: Observed) -> list[Violation]:
    """What is left of processes and folders that nobody needs any more, and what was seen meanwhile."""
    found = [Violation(Kind.WRONG, "service", accident) for accident in observed.accidents]
    leaked = [("process", process) for process in observed.processes]
    leaked += [("folder", folder) for folder in observed.folders]
    return found + [Violation(Kind.LEAKED, where, what) for where, what in leaked]


def check_objects(observed: Observed) -> list[Violation]:
    """Every object is named by a row or an index, and every object that one of them names is there."""
    named = _named_objects(observed)
    found = []
    for key in sorted(observed.objects):
        if key in named or key in observed.cache_indices:
            continue
        planned = [row for row in observed.cleanups if key.startswith(f"{row['object_prefix']}/")]
        if planned and key.startswith("datasets/"):
            continue  # of an upload whose API was killed: the sweep waits for a day before it takes those
        found.append(Violation(Kind.LEAKED, "object", f"{key} ({observed.objects[key]} bytes) is named by nothing"))
    for key, size in sorted(named.items()):
        if key not in observed.objects:
            found.append(Violation(Kind.LOST, "object", f"{key} is named, and not there"))
        elif observed.objects[key] != size:
            what = f"{key} has {observed.objects[key]} bytes, {size} are recorded"
            found.append(Violation(Kind.WRONG, "object", what))
    return found


def expected_ends(told: Told) -> list[str]:
    """How the job had to end, once for each time that it was started by a person."""
    match told.plan.intent:
        case Intent.CANCEL:
            return ["cancelled"] if told.is_cancel_accepted else ["succeeded"]
        case Intent.LIMIT:
            return ["failed"]
        case Intent.DOOM if told.is_doomed:
            return ["failed"]
        case Intent.DOOM_RETRY if told.is_doomed:
            return ["failed", "succeeded"]
        case Intent.CANCEL_RETRY:
            return ["cancelled", "succeeded"] if told.ends[:1] == ["cancelled"] else ["succeeded"]
        case _:
            return ["succeeded"]


def _check_posts(told: Told, observed: Observed) -> Iterator[Violation]:
    """One job for one key, whatever was repeated."""
    key = told.plan.key
    rows = [job_id for job_id, job in observed.jobs.items() if job["metadata"].get("chaos") == key]
    if len(told.job_ids) > 1 or len(rows) > 1:
        yield Violation(Kind.DOUBLED, key, f"answers named {sorted(told.job_ids)}, rows are {sorted(rows)}")
    missing = told.job_ids - {*rows}
    if missing and not told.is_deleted:
        yield Violation(Kind.LOST, key, f"{sorted(missing)} was accepted, and there is no such row")
    if told.is_deleted and rows:
        yield Violation(Kind.WRONG, key, f"{rows} was deleted, and is still there")
    for answer in told.wrong_answers:
        yield Violation(Kind.WRONG, key, answer)
    if not told.is_done:
        status = observed.jobs[rows[0]]["status"] if rows else "not there"
        yield Violation(Kind.LOST, key, f"{sorted(told.job_ids)} did not come to its end; it is {status}")


def _check_job(told: Told, observed: Observed, reference: Reference, shares_tuning: bool) -> Iterator[Violation]:
    assert told.job_id is not None
    job_id = told.job_id
    where = f"{told.plan.key} ({told.plan.intent}, {told.plan.spec.name}) {job_id}"
    job = observed.jobs[job_id]
    events = observed.events.get(job_id, [])
    yield from _check_status(told, job, where)
    yield from _check_events(told, job, events, where)
    yield from _check_attempts(job, observed.attempts.get(job_id, []), where)
    yield from _check_metrics(job, observed.metrics.get(job_id, []), reference, shares_tuning, where)
    yield from _check_artifacts(told, job, observed, reference, where)
    if job["status"] in ("succeeded", "cancelled") and job_id in observed.checkpoints:
        count = len(observed.checkpoints[job_id])
        yield Violation(Kind.LEAKED, where, f"{count} checkpoints are recorded of a job that is {job['status']}")


def _check_status(told: Told, job: Row, where: str) -> Iterator[Violation]:
    expected = expected_ends(told)
    if told.is_done and told.ends != expected:
        yield Violation(Kind.WRONG, where, f"its client saw it end as {told.ends}, expected was {expected}")
    if job["status"] != expected[-1]:
        error = f" ({job['error_code']}: {job['error_message']})" if job["error_code"] else ""
        yield Violation(Kind.WRONG, where, f"is {job['status']}{error}, expected was {expected[-1]}")
    if JobStatus(job["status"]) in TERMINAL and (job["run_token"] or job["lease_expires_at"]):
        yield Violation(Kind.WRONG, where, f"is {job['status']}, and still leased")
    codes = {Intent.LIMIT: {LIMIT_CODE}}.get(told.plan.intent, DEATH_CODES)
    if job["status"] == "failed" and job["error_code"] not in codes:
        yield Violation(Kind.WRONG, where, f"failed as {job['error_code']}, expected was one of {sorted(codes)}")


def _check_events(told: Told, job: Row, events: Sequence[Row], where: str) -> Iterator[Violation]:
    sequences = [event["sequence"] for event in events]
    doubled = [sequence for sequence, count in Counter(sequences).items() if count > 1]
    if doubled:
        yield Violation(Kind.DOUBLED, where, f"event sequences {doubled} come more than once")
    if sorted({*sequences}) != [*range(1, job["event_sequence"] + 1)]:
        yield Violation(Kind.WRONG, where, f"event sequences are {sequences}, and not 1 to {job['event_sequence']}")
    reached = [event["payload"]["status"] for event in events if event["type"] == "status"]
    ends = [status for status in reached if JobStatus(status) in TERMINAL]
    expected = expected_ends(told)
    if ends != expected:
        kind = Kind.DOUBLED if len(ends) > len(expected) else Kind.LOST if not ends else Kind.WRONG
        yield Violation(kind, where, f"terminal events are {ends}, expected was {expected}")
    if reached[:1] != ["queued"] or reached[-1:] != [job["status"]]:
        yield Violation(
            Kind.WRONG, where, f"status events go from {reached[:1]} to {reached[-1:]}, it is {job['status']}"
        )
    for before, after in pairwise(reached):
        if not _is_legal(JobStatus(before), JobStatus(after)):
            yield Violation(Kind.WRONG, where, f"went from {before} to {after}")
    for event in events:
        if event["type"] == "resumed" and not event["payload"]["exact_resume"]:
            yield Violation(Kind.WRONG, where, f"resumed inexactly: {event['payload']}")


def _is_legal(before: JobStatus, after: JobStatus) -> bool:
    return after in TRANSITIONS[before] or (before in RETRYABLE and after is JobStatus.QUEUED)


def _check_attempts(job: Row, attempts: Sequence[Row], where: str) -> Iterator[Violation]:
    numbers = [attempt["number"] for attempt in attempts]
    if numbers != [*range(1, job["attempt"] + 1)]:
        yield Violation(Kind.WRONG, where, f"attempts are {numbers}, the job counts {job['attempt']}")
    for attempt in attempts:
        if attempt["finished_at"] is None:
            yield Violation(Kind.WRONG, where, f"attempt {attempt['number']} never ended: {attempt['outcome']}")


def _check_metrics(
    job: Row, metrics: Sequence[Row], reference: Reference, shares_tuning: bool, where: str
) -> Iterator[Violation]:
    points = Counter((row["series"], row["step"]) for row in metrics)
    doubled = [point for point, count in points.items() if count > 1]
    if doubled:
        yield Violation(Kind.DOUBLED, where, f"metrics {doubled} have more than one value")
    values = {f"{row['series']} {row['step']}": row["value"] for row in metrics}
    strange = {point: value for point, value in values.items() if reference.metrics.get(point, _NOTHING) != value}
    if strange:
        sample = {point: (value, reference.metrics.get(point)) for point, value in [*strange.items()][:3]}
        yield Violation(Kind.WRONG, where, f"{len(strange)} metrics are not the undisturbed job's: {sample}")
    if job["status"] == "succeeded":
        missing = [point for point in reference.metrics if point not in values]
        if shares_tuning:
            # Whoever finds the tuned teacher of another job in the cache does not tune, and measures nothing.
            missing = [point for point in missing if not point.startswith("teacher_tuning/")]
        if missing:
            what = f"{len(missing)} of {len(reference.metrics)} metrics are missing: {missing[:4]}"
            yield Violation(Kind.LOST, where, what)


_NOTHING = object()


def _check_artifacts(told: Told, job: Row, observed: Observed, reference: Reference, where: str) -> Iterator[Violation]:
    rows = observed.artifacts.get(job["id"], [])
    if job["status"] != "succeeded":
        if rows:
            yield Violation(Kind.WRONG, where, f"is {job['status']}, and has {len(rows)} artifacts")
        return
    sets = {row["object_key"].split("/artifact/")[0] for row in rows}
    if len(sets) > 1:
        yield Violation(Kind.DOUBLED, where, f"artifacts come from several attempts: {sorted(sets)}")
    names, expected = sorted(row["name"] for row in rows), sorted([*reference.names, ARCHIVE])
    if names != expected:
        yield Violation(Kind.WRONG, where, f"artifacts are {names}, expected were {expected}")
    claimed = (job["result"] or {}).get("content_sha256")
    if claimed != reference.content_sha256:
        yield Violation(Kind.WRONG, where, f"content_sha256 is {claimed}, undisturbed it is {reference.content_sha256}")
    download = observed.downloads.get(job["id"])
    if download is None:
        why = observed.broken_downloads.get(job["id"], "nobody tried")
        yield Violation(Kind.LOST, where, f"its student could not be downloaded: {why}")
    else:
        yield from _check_download(told, rows, download, reference, where)


def _check_download(
    told: Told, rows: Sequence[Row], download: Download, reference: Reference, where: str
) -> Iterator[Violation]:
    recorded = {row["name"]: row["sha256"] for row in rows}
    if download.announced != recorded:
        yield Violation(Kind.WRONG, where, f"the API announces {download.announced}, recorded are {recorded}")
    if download.sha256 != recorded.get(ARCHIVE):
        yield Violation(Kind.WRONG, where, f"{ARCHIVE} came with sha256 {download.sha256}, not {recorded.get(ARCHIVE)}")
    if told.archive_sha256 not in (None, download.sha256):
        what = f"{ARCHIVE} has sha256 {download.sha256}; its client got {told.archive_sha256}"
        yield Violation(Kind.WRONG, where, what)
    differing = [name for name, sha256 in reference.files.items() if download.files.get(name) != sha256]
    if differing:
        yield Violation(Kind.WRONG, where, f"{differing} in the archive are not the undisturbed job's")
    if download.manifest.get("content_sha256") != reference.content_sha256:
        yield Violation(Kind.WRONG, where, "the manifest's content_sha256 is not the undisturbed job's")


def _check_strangers(observed: Observed, told: Sequence[Told]) -> Iterator[Violation]:
    keys = {client.plan.key for client in told}
    for job_id, job in observed.jobs.items():
        if job["metadata"].get("chaos") not in keys:
            yield Violation(Kind.WRONG, job_id, "nobody posted this job")


def _check_imports(
    observed: Observed, imported: Iterable[tuple[str, str]], materials: Materials
) -> Iterator[Violation]:
    """What was accepted is ready, with the content that it came with."""
    for kind, row_id in imported:
        rows = observed.datasets if kind == "datasets" else observed.teachers
        row = rows.get(row_id)
        if row is None:
            yield Violation(Kind.LOST, row_id, "was accepted, and there is no such row")
            continue
        if row["status"] != "ready":
            error = f" ({row['error_code']}: {row['error_message']})" if row["error_code"] else ""
            yield Violation(
                Kind.LOST if row["status"] == "pending" else Kind.WRONG, row_id, f"is {row['status']}{error}"
            )
        elif kind == "datasets" and (row["sha256"], row["rows"]) != (materials.dataset_sha256, materials.dataset_rows):
            yield Violation(Kind.WRONG, row_id, f"has {row['rows']} rows with sha256 {row['sha256']}")
        elif kind == "teachers" and row["sha256"] not in materials.teacher_sha256.values():
            yield Violation(Kind.WRONG, row_id, f"has sha256 {row['sha256']}")


def _named_objects(observed: Observed) -> dict[str, int]:
    """Keys that rows and cache indices name, with the sizes that they record."""
    named: dict[str, int] = {}

    def name_files(prefix: str | None, files: Iterable[Mapping[str, Any]] | None) -> None:
        for file in files or ():
            # In the cache an object has another name than its file.
            named[f"{prefix}/{file.get('object', file['path'])}"] = file["size_bytes"]

    for rows in observed.artifacts.values():
        named |= {row["object_key"]: row["size_bytes"] for row in rows}
    for rows in observed.checkpoints.values():
        for row in rows:
            name_files(row["object_prefix"], row["files"])
    for row in [*observed.datasets.values(), *observed.teachers.values()]:
        name_files(row["object_prefix"], row["files"])
        named |= {upload["object_key"]: upload["size_bytes"] for upload in row.get("uploads", [])}
    for key, files in observed.cache_indices.items():
        name_files(key.rpartition("/")[0], files)
    return named


def _shares_tuning(told: Told, everybody: Sequence[Told]) -> bool:
    """Whether another job of the run may have tuned this one's teacher."""
    tunings: defaultdict[str, int] = defaultdict(int)
    for other in everybody:
        tunings[repr(other.plan.spec.body["teacher_tuning"])] += 1
    return tunings[repr(told.plan.spec.body["teacher_tuning"])] > 1
