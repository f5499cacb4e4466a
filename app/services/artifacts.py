"""List and stream the files of a finished job's student."""

from collections.abc import AsyncIterator, Sequence

from app.db.models import Artifact
from app.db.session import read_session
from app.errors import ArtifactNotFound, Unavailable
from app.repositories import artifacts
from app.services.jobs import find_job
from app.settings import Settings
from app.storage.store import ObjectMissing, ObjectStore

CONTENT_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".tar.gz": "application/gzip",
}


def list_for_job(settings: Settings, job_id: str) -> Sequence[Artifact]:
    with read_session(settings) as session:
        find_job(session, job_id)
        return artifacts.list_for_job(session, job_id)


def get(settings: Settings, job_id: str, name: str) -> Artifact:
    with read_session(settings) as session:
        find_job(session, job_id)
        artifact = artifacts.get(session, job_id, name)
    if artifact is None:
        raise ArtifactNotFound(job_id, name)
    return artifact


def content_type(name: str) -> str:
    """What a browser should take the artifact for; weights and all else are plain bytes."""
    for suffix, media_type in CONTENT_TYPES.items():
        if name.endswith(suffix):
            return media_type
    return "application/octet-stream"


async def open_stream(store: ObjectStore, artifact: Artifact, start: int, end: int) -> AsyncIterator[bytes]:
    """Chunks of the bytes from `start` up to `end`, excluded. The first is fetched here, so that an object that
    is gone is an error of the request and not a download that breaks off."""
    chunks = store.stream_async(artifact.object_key, start, end)
    try:
        first = await anext(chunks, b"")
    except ObjectMissing as error:
        raise Unavailable(
            f"The object of artifact {artifact.name!r} is not in the object store any more. Restore it from a backup, "
            "or run the job again.",
            code="artifact_object_missing",
            param="name",
        ) from error
    return _chain(first, chunks)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
