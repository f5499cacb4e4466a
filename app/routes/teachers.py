"""Teachers: register, list, get, delete."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response, status

from app.db.models import Teacher
from app.dependencies import SettingsDep, StoreDep, TeacherId
from app.domain.imports import TERMINAL, ImportStatus
from app.schemas.errors import error_responses
from app.schemas.teachers import TEACHER_FORM, TeacherCreate, TeacherError, TeacherPage, TeacherRead, TeachersQuery
from app.services import teachers

router = APIRouter(prefix="/teachers", tags=["teachers"])


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Register a teacher",
    responses={
        202: {"description": "Registered; being fetched and checked"},
        **error_responses("POST /teachers", 400, 404, 408, 409, 413, 415, 422),
    },
)
def create_teacher(
    body: Annotated[
        TeacherCreate,
        Body(
            openapi_examples={
                "hub": {
                    "summary": "From the hub",
                    "value": {
                        "source": {
                            "type": "hub",
                            "repo": "sentence-transformers/all-MiniLM-L6-v2",
                            "revision": "main",
                        },
                        "name": "MiniLM from the hub",
                    },
                },
            }
        ),
    ],
    response: Response,
    settings: SettingsDep,
) -> TeacherRead:
    """A repository of the hub, an allowed folder of the service's machine, or the student of a finished job.
    A worker fetches and checks it: poll `GET /teachers/{teacher_id}` until `terminal` is true."""
    teacher = teachers.register(settings, source=body.source.model_dump(), name=body.name)
    response.headers["Location"] = f"/teachers/{teacher.id}"
    return read_teacher(teacher)


@router.post(
    "/upload",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Upload a teacher",
    openapi_extra={"requestBody": TEACHER_FORM},
    responses={
        202: {"description": "Received; being checked"},
        **error_responses("POST /teachers/upload", 400, 408, 413, 415, 422),
    },
)
async def upload_teacher(request: Request, response: Response, settings: SettingsDep, store: StoreDep) -> TeacherRead:
    """The files that `save_pretrained` writes for a model and its tokenizer, each a part `file`. A worker then checks
    them: poll `GET /teachers/{teacher_id}` until `terminal` is true."""
    teacher = await teachers.receive(
        settings, store, content_type=request.headers.get("content-type", ""), body=request.stream()
    )
    response.headers["Location"] = f"/teachers/{teacher.id}"
    return read_teacher(teacher)


@router.get("", summary="List teachers", responses=error_responses("GET /teachers", 422))
def list_teachers(query: Annotated[TeachersQuery, Query()], settings: SettingsDep) -> TeacherPage:
    """Newest first."""
    page = teachers.list_page(settings, limit=query.limit, after=query.after, statuses=query.status)
    return TeacherPage(data=[read_teacher(row) for row in page.rows], has_more=page.has_more, next=page.next)


@router.get("/{teacher_id}", summary="Get a teacher", responses=error_responses("GET /teachers/{teacher_id}", 404))
def get_teacher(teacher_id: TeacherId, settings: SettingsDep) -> TeacherRead:
    """What was found in its files, or why it can't be used."""
    return read_teacher(teachers.get(settings, teacher_id))


@router.delete(
    "/{teacher_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a teacher",
    responses=error_responses("DELETE /teachers/{teacher_id}", 404, 409),
)
def delete_teacher(teacher_id: TeacherId, settings: SettingsDep) -> None:
    """Refused while a job that is not over uses it."""
    teachers.delete(settings, teacher_id)


def read_teacher(teacher: Teacher) -> TeacherRead:
    return TeacherRead(
        id=teacher.id,
        name=teacher.name or teacher.id,
        source=teacher.source,
        status=ImportStatus(teacher.status).value,
        terminal=ImportStatus(teacher.status) in TERMINAL,
        family=teacher.family,
        layers=teacher.layers,
        hidden_size=teacher.hidden_size,
        num_labels=teacher.num_labels,
        labels=teacher.labels,
        parameters=teacher.parameters,
        max_positions=teacher.max_positions,
        sha256=teacher.sha256,
        size_bytes=teacher.size_bytes,
        error=TeacherError(code=teacher.error_code, message=teacher.error_message or "")
        if teacher.error_code
        else None,
        created_at=teacher.created_at,
    )
