"""The files of a finished job's student: list and download."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Request, Response, status
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.db.models import Artifact
from app.dependencies import ArtifactName, JobId, SettingsDep, StoreDep, refuse_query
from app.schemas.artifacts import ArtifactLinks, ArtifactPage, ArtifactRead
from app.schemas.errors import error_responses
from app.services import artifacts
from app.services.ranges import parse_range

router = APIRouter(prefix="/jobs/{job_id}/artifacts", tags=["artifacts"])

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FILE: dict[str, Any] = {
    "content": {
        "application/octet-stream": _BYTES,
        **{media_type.split(";")[0]: _BYTES for media_type in artifacts.CONTENT_TYPES.values()},
    }
}


@router.get(
    "",
    summary="List a job's artifacts",
    dependencies=[Depends(refuse_query)],
    responses=error_responses("GET /jobs/{job_id}/artifacts", 404, 422),
)
def list_artifacts(job_id: JobId, settings: SettingsDep) -> ArtifactPage:
    """Empty until the job has succeeded. `student.tar.gz` holds all the others."""
    data = [read_artifact(artifact) for artifact in artifacts.list_for_job(settings, job_id)]
    return ArtifactPage(data=data, has_more=False, next=None)


@router.get(
    "/{name:path}",
    summary="Download an artifact",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file", **_FILE},
        206: {"description": "The part that Range asked for", **_FILE},
        304: {"description": "You have it already (If-None-Match)"},
        **error_responses("GET /jobs/{job_id}/artifacts/{name}", 404, 416),
    },
)
@router.head("/{name:path}", include_in_schema=False)
async def download_artifact(
    request: Request,
    job_id: JobId,
    name: ArtifactName,
    settings: SettingsDep,
    store: StoreDep,
    byte_range: Annotated[
        str | None,
        Header(alias="Range", description="One range of bytes, such as `bytes=0-1023`, to resume a download."),
    ] = None,
    if_range: Annotated[
        str | None, Header(alias="If-Range", description="ETag: Range counts only while the file is this one.")
    ] = None,
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="ETag of the file that you have.")
    ] = None,
) -> Response:
    """Streams the file. Its ETag is its sha256, so a broken download can be resumed safely."""
    artifact = await run_in_threadpool(artifacts.get, settings, job_id, name)
    headers = _headers(artifact)
    if if_none_match is not None and _names(if_none_match, headers["ETag"]):
        kept = {name: headers[name] for name in ("ETag", "Cache-Control")}
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=kept)
    if request.method == "HEAD":  # for which ranges are not defined
        return Response(headers={**headers, "Content-Length": str(artifact.size_bytes)})
    part = None
    if if_range is None or if_range.strip() == headers["ETag"]:
        part = parse_range(byte_range, artifact.size_bytes)
    start, end = part or (0, artifact.size_bytes)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size_bytes}"
    status_code = status.HTTP_200_OK if part is None else status.HTTP_206_PARTIAL_CONTENT
    chunks = await artifacts.open_stream(store, artifact, start, end)
    return StreamingResponse(chunks, status_code=status_code, headers=headers)


def read_artifact(artifact: Artifact) -> ArtifactRead:
    return ArtifactRead(
        name=artifact.name,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        content_type=artifacts.content_type(artifact.name),
        links=ArtifactLinks(download=f"/jobs/{artifact.job_id}/artifacts/{quote(artifact.name)}"),
    )


def _headers(artifact: Artifact) -> dict[str, str]:
    file_name = artifact.name.rsplit("/", 1)[-1]
    plain = file_name.encode("ascii", "replace").decode().replace('"', "_").replace("\\", "_")
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}",
        "Content-Type": artifacts.content_type(artifact.name),
        "ETag": f'"{artifact.sha256}"',
        # A job's files never change; it can only be deleted.
        "Cache-Control": "private, no-cache",
    }


def _names(if_none_match: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags
