"""Datasets: upload, list, get, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status

from app.db.models import Dataset
from app.dependencies import DatasetId, SettingsDep, StoreDep
from app.domain.imports import TERMINAL, ImportStatus
from app.schemas.datasets import DATASET_FORM, DatasetError, DatasetPage, DatasetRead, DatasetsQuery, Rows
from app.schemas.errors import error_responses
from app.services import datasets

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Upload a dataset",
    openapi_extra={"requestBody": DATASET_FORM},
    responses={
        202: {"description": "Received; being checked"},
        **error_responses("POST /datasets", 400, 408, 413, 415, 422),
    },
)
async def create_dataset(request: Request, response: Response, settings: SettingsDep, store: StoreDep) -> DatasetRead:
    """Upload CSV or TSV (with a header line), JSON lines or Parquet. A worker then checks columns, labels and
    rows: poll `GET /datasets/{dataset_id}` until `terminal` is true. The parts of the form may come in any order."""
    dataset = await datasets.receive(
        settings, store, content_type=request.headers.get("content-type", ""), body=request.stream()
    )
    response.headers["Location"] = f"/datasets/{dataset.id}"
    return read_dataset(dataset)


@router.get("", summary="List datasets", responses=error_responses("GET /datasets", 422))
def list_datasets(query: Annotated[DatasetsQuery, Query()], settings: SettingsDep) -> DatasetPage:
    """Newest first."""
    page = datasets.list_page(settings, limit=query.limit, after=query.after, statuses=query.status)
    return DatasetPage(data=[read_dataset(row) for row in page.rows], has_more=page.has_more, next=page.next)


@router.get("/{dataset_id}", summary="Get a dataset", responses=error_responses("GET /datasets/{dataset_id}", 404))
def get_dataset(dataset_id: DatasetId, settings: SettingsDep) -> DatasetRead:
    """What was found in the files, or why they can't be used."""
    return read_dataset(datasets.get(settings, dataset_id))


@router.delete(
    "/{dataset_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a dataset",
    responses=error_responses("DELETE /datasets/{dataset_id}", 404, 409),
)
def delete_dataset(dataset_id: DatasetId, settings: SettingsDep) -> None:
    """Refused while a job that is not over uses it."""
    datasets.delete(settings, dataset_id)


def read_dataset(dataset: Dataset) -> DatasetRead:
    return DatasetRead(
        id=dataset.id,
        name=dataset.name or dataset.id,
        status=ImportStatus(dataset.status).value,
        terminal=ImportStatus(dataset.status) in TERMINAL,
        text_column=dataset.text_column,
        text_pair_column=dataset.text_pair_column,
        label_column=dataset.label_column,
        rows=Rows(**(dataset.rows or {}), unlabelled=dataset.unlabelled_rows),
        labels=dataset.labels or [],
        sha256=dataset.sha256,
        size_bytes=dataset.size_bytes,
        warnings=dataset.warnings,
        error=DatasetError(code=dataset.error_code, message=dataset.error_message or "")
        if dataset.error_code
        else None,
        created_at=dataset.created_at,
    )
