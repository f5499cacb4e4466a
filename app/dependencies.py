"""What routes ask for. Sessions are not among it: services open short ones, so none stays open while a
response streams."""

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request

from app.domain.ids import is_id
from app.errors import ArtifactNotFound, DatasetNotFound, JobNotFound, TeacherNotFound
from app.schemas.base import NoQuery
from app.settings import Settings
from app.storage.store import ObjectStore

LONGEST_ARTIFACT_NAME = 255


async def get_app_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def get_store(request: Request) -> ObjectStore:
    store: ObjectStore = request.app.state.store
    return store


async def get_request_id(request: Request) -> str:
    request_id: str = request.state.request_id
    return request_id


RequestId = Annotated[str, Depends(get_request_id)]
SettingsDep = Annotated[Settings, Depends(get_app_settings)]
StoreDep = Annotated[ObjectStore, Depends(get_store)]


# What has not the form of an id is the id of nothing; a database need not be asked, and could not always be.
async def get_job_id(job_id: Annotated[str, Path(description="Id of a job.")]) -> str:
    if not is_id(job_id):
        raise JobNotFound(job_id, param="job_id")
    return job_id


async def get_dataset_id(dataset_id: Annotated[str, Path(description="Id of a dataset.")]) -> str:
    if not is_id(dataset_id):
        raise DatasetNotFound(dataset_id, param="dataset_id")
    return dataset_id


async def get_teacher_id(teacher_id: Annotated[str, Path(description="Id of a teacher.")]) -> str:
    if not is_id(teacher_id):
        raise TeacherNotFound(teacher_id, param="teacher_id")
    return teacher_id


async def get_artifact_name(
    job_id: Annotated[str, Path(description="Id of a job.")],
    name: Annotated[
        str,
        Path(
            description="Name of an artifact.",
            openapi_examples={"student": {"summary": "All files", "value": "student.tar.gz"}},
        ),
    ],
) -> str:
    if len(name) > LONGEST_ARTIFACT_NAME or not name.isprintable():
        raise ArtifactNotFound(job_id, name)
    return name


async def refuse_query(_: Annotated[NoQuery, Query()]) -> None:
    """For a list that comes whole: nobody shall believe that it was filtered, or cut into pages."""


JobId = Annotated[str, Depends(get_job_id)]
ArtifactName = Annotated[str, Depends(get_artifact_name)]
DatasetId = Annotated[str, Depends(get_dataset_id)]
TeacherId = Annotated[str, Depends(get_teacher_id)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7E]+$",
        description="Any string of your own, kept for a day. The same key with the same body gives the same "
        "job, answered with 200, however often it is sent while the job is there: once that is deleted, the key makes "
        "a new one.",
    ),
]
