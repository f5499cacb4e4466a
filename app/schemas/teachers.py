"""The body of POST /teachers, the form of POST /teachers/upload for the documentation, and the shape of a teacher.

The form has no pydantic model: its parts are read as they arrive, straight to object storage.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from app.schemas.base import ImportStatusName, Page, PageQuery, RequestModel, ResponseModel, ShortText, Text

TEACHER_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "title": "TeacherUpload",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 200,
                        "items": {
                            "type": "string",
                            "format": "binary",
                            "contentMediaType": "application/octet-stream",
                        },
                        "description": "config.json, the weights as .safetensors, and the tokenizer's files: all that "
                        "`save_pretrained` writes in .json, .safetensors and .txt.",
                    },
                    # Empty by default, or the documentation page fills in "string" and sends it.
                    "name": {"type": "string", "maxLength": 200, "default": "", "description": "A name for people."},
                },
            }
        }
    },
}


class HubSource(RequestModel):
    """A model repository of the hub."""

    type: Literal["hub"]
    repo: Annotated[
        str,
        StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?$"),
    ] = Field(description="Repository, as `name` or `organisation/name`.", examples=["org/name"])
    revision: Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_./\-]*$")] = Field(
        default="main", description="Branch, tag or commit; a commit never changes."
    )


class FolderSource(RequestModel):
    """A folder on the machine of the service, below one of STILLHOUSE_TEACHER_DIRS."""

    type: Literal["folder"]
    path: Annotated[Text, Field(min_length=1, max_length=4096)] = Field(
        description="Absolute path.", examples=["/srv/teachers/intents"]
    )


class JobSource(RequestModel):
    """The student of a finished job."""

    type: Literal["job"]
    job: ShortText = Field(description="Id of a job that has succeeded.")


TeacherSource = Annotated[HubSource | FolderSource | JobSource, Field(discriminator="type")]


class TeacherCreate(RequestModel):
    source: TeacherSource
    name: ShortText | None = Field(default=None, description="A name for people; taken from the source when absent.")


class TeacherError(ResponseModel):
    code: str
    message: str


class TeacherRead(ResponseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "tch_demo",
                "name": "all-MiniLM-L6-v2",
                "source": {"type": "hub", "repo": "sentence-transformers/all-MiniLM-L6-v2", "revision": "main"},
                "status": "ready",
                "terminal": True,
                "family": "bert",
                "layers": 6,
                "hidden_size": 384,
                "num_labels": None,
                "labels": None,
                "parameters": 22713216,
                "max_positions": 512,
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "size_bytes": 90868376,
                "error": None,
                "created_at": "2026-01-05T12:00:00Z",
            }
        }
    )

    id: str
    name: str
    source: dict[str, Any] = Field(
        description="Where it came from, as it was asked for; of an upload its files with their hashes."
    )
    status: ImportStatusName = Field(description="`pending`, then `ready` or `failed`.")
    terminal: bool = Field(description="True once the status will not change any more.")
    family: str | None = Field(description="Architecture; known, like what follows, once ready.")
    layers: int | None
    hidden_size: int | None
    num_labels: int | None = Field(
        description="Classes of its classifier; null for a pretrained encoder, which needs `teacher_tuning`."
    )
    labels: list[str] | None
    parameters: int | None
    max_positions: int | None = Field(description="Longest input, in tokens.")
    sha256: str | None
    size_bytes: int | None
    error: TeacherError | None = Field(description="Why a failed teacher failed, and what to change.")
    created_at: datetime


class TeacherPage(Page[TeacherRead]):
    pass


class TeachersQuery(PageQuery):
    status: list[ImportStatusName] = Field(
        default_factory=list, max_length=3, description="Only these; repeat the parameter for several."
    )
