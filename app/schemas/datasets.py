"""The shape of a dataset, and the multipart form of POST /datasets for the documentation.

The form has no pydantic model: its parts are read as they arrive, straight to object storage.
"""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from app.schemas.base import ImportStatusName, Page, PageQuery, ResponseModel

_FILE = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
_FORMATS = ".csv, .tsv, .jsonl, .ndjson (each also with .gz) or .parquet"

# Empty by default, or the documentation page fills in "string" and sends it; empty counts as left out.
_TEXT = {"type": "string", "maxLength": 200, "default": ""}

DATASET_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "title": "DatasetCreate",
                "required": ["train"],
                "additionalProperties": False,
                "properties": {
                    "train": {**_FILE, "description": f"Training rows: {_FORMATS}."},
                    "validation": {
                        **_FILE,
                        "description": f"Validation rows: {_FORMATS}. Split off from `train` when absent.",
                    },
                    "test": {**_FILE, "description": f"Test rows: {_FORMATS}."},
                    "unlabelled": {
                        **_FILE,
                        "description": f"More training texts, without labels: {_FORMATS}. What they are, the teacher "
                        "says; a label column in it is not read.",
                    },
                    "name": {
                        **_TEXT,
                        "description": "A name for people; the training file's name when absent.",
                    },
                    "text_column": {
                        **_TEXT,
                        "description": "Column of the text; `text`, `sentence`, `text_a` or `sentence1` when absent.",
                    },
                    "text_pair_column": {
                        **_TEXT,
                        "description": "Column of the second text of a pair; `text_pair`, `sentence2` or "
                        "`text_b`, if there is one, when absent.",
                    },
                    "label_column": {
                        **_TEXT,
                        "description": "Column of the label; `label` when absent.",
                    },
                },
            }
        }
    },
}


class Rows(ResponseModel):
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    unlabelled: int | None = Field(
        default=None, description="Training rows of which only the teacher says what they are."
    )


class DatasetError(ResponseModel):
    code: str
    message: str


class DatasetRead(ResponseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "dts_demo",
                "name": "intents",
                "status": "ready",
                "terminal": True,
                "text_column": "text",
                "text_pair_column": None,
                "label_column": "label",
                "rows": {"train": 1500, "validation": 300, "test": 450, "unlabelled": None},
                "labels": ["balance", "card_declined", "transfer"],
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "size_bytes": 38012,
                "warnings": [],
                "error": None,
                "created_at": "2026-01-05T12:00:00Z",
            }
        }
    )

    id: str
    name: str
    status: ImportStatusName = Field(description="`pending`, then `ready` or `failed`.")
    terminal: bool = Field(description="True once the status will not change any more.")
    text_column: str | None = Field(
        description="As asked for, or as found by name once ready; null when there is none (yet)."
    )
    text_pair_column: str | None
    label_column: str | None
    rows: Rows = Field(description="Rows of each split, known once ready.")
    labels: list[str] = Field(description="Names of the classes, in the order of their numbers.")
    sha256: str | None = Field(description="Hash of the prepared rows: equal rows, equal hash.")
    size_bytes: int = Field(description="Size of the files as they were uploaded.")
    warnings: list[Any] = Field(description="What was noticed and put up with.")
    error: DatasetError | None = Field(description="Why a failed dataset failed, and what to change.")
    created_at: datetime


class DatasetPage(Page[DatasetRead]):
    pass


class DatasetsQuery(PageQuery):
    status: list[ImportStatusName] = Field(
        default_factory=list, max_length=3, description="Only these; repeat the parameter for several."
    )
