"""Register, read and delete datasets. What is in the files, a worker judges."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from app.db.models import Dataset
from app.db.session import read_session, write_session
from app.domain.ids import new_id
from app.errors import Conflict, DatasetNotFound, InvalidRequest, some_of
from app.queue import wake
from app.repositories import datasets, imports, jobs
from app.repositories.pages import Page
from app.services import receiving
from app.services.dataset_files import check_file_name, stem
from app.services.dataset_form import DatasetForm, StoredUpload, receive_dataset_form
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectStore


async def receive(settings: Settings, store: ObjectStore, *, content_type: str, body: AsyncIterator[bytes]) -> Dataset:
    """Receive the form of POST /datasets and register what it brought, or leave nothing behind."""
    dataset_id = new_id("dataset")
    return await receiving.receive(
        settings,
        store,
        root=keys.dataset_root(dataset_id),
        content_type=content_type,
        body=body,
        example_part="train",
        read_form=lambda parts: receive_dataset_form(
            parts, store, dataset_id=dataset_id, max_bytes=settings.max_upload_bytes
        ),
        create=partial(_create, settings, dataset_id),
    )


def register_files(
    settings: Settings,
    *,
    files: Mapping[str, Path],
    dataset_id: str | None = None,
    name: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """Register local files, by split, as POST /datasets does. With an id that exists, return what is there."""
    if dataset_id is not None:
        with read_session(settings) as session:
            existing = datasets.get(session, dataset_id)
        if existing is not None:
            return existing
    dataset_id = dataset_id or new_id("dataset")
    store = ObjectStore.from_settings(settings)
    columns = {
        "name": name,
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
    }
    form = DatasetForm(fields={field: value for field, value in columns.items() if value})
    receiving.expect_objects(settings, keys.dataset_root(dataset_id))
    for split, path in files.items():
        form.uploads[split] = _store_local_file(store, dataset_id, split, path)
    dataset = _create(settings, dataset_id, form)
    wake(settings)
    return dataset


def get(settings: Settings, dataset_id: str) -> Dataset:
    with read_session(settings) as session:
        dataset = datasets.get(session, dataset_id)
    if dataset is None:
        raise DatasetNotFound(dataset_id, param="dataset_id")
    return dataset


def list_page(settings: Settings, *, limit: int, after: str | None, statuses: Sequence[str]) -> Page[Dataset]:
    with read_session(settings) as session:
        return datasets.list_page(session, limit=limit, after=after, statuses=statuses)


def delete(settings: Settings, dataset_id: str) -> None:
    """Delete a dataset that no unfinished job uses; its objects go with the next sweep."""
    with write_session(settings) as session:
        if datasets.lock(session, dataset_id) is None:
            raise DatasetNotFound(dataset_id, param="dataset_id")
        users = jobs.live_using(session, dataset_id=dataset_id)
        if users:
            raise Conflict(
                f"Dataset {dataset_id!r} is used by {some_of(users)}, not finished yet. Cancel "
                f"them or wait until they end; GET /jobs?dataset={dataset_id} lists all of its jobs.",
                code="dataset_in_use",
                param="dataset_id",
            )
        imports.remove(session, "dataset", dataset_id)


def _create(settings: Settings, dataset_id: str, form: DatasetForm) -> Dataset:
    _check_columns(form.fields)
    train = form.uploads["train"]
    name = form.fields.get("name") or stem(train.file_name, check_file_name(train.file_name, param="train"))
    uploads = [
        {
            "split": upload.split,
            "filename": upload.file_name,
            "object_key": upload.object_key,
            "size_bytes": upload.size_bytes,
            "sha256": upload.sha256,
        }
        for upload in form.uploads.values()
    ]
    with write_session(settings) as session:
        return datasets.create(
            session,
            dataset_id=dataset_id,
            name=name,
            uploads=uploads,
            size_bytes=form.size_bytes,
            text_column=form.fields.get("text_column"),
            text_pair_column=form.fields.get("text_pair_column"),
            label_column=form.fields.get("label_column"),
        )


def _check_columns(fields: Mapping[str, str]) -> None:
    named: dict[str, str] = {}
    for field in ("text_column", "text_pair_column", "label_column"):
        column = fields.get(field)
        if column is None:
            continue
        if column in named:
            raise InvalidRequest(
                f"{field} is {column!r}, which {named[column]} names already. Name a column of its own for each.",
                code="duplicate_column",
                param=field,
            )
        named[column] = field


def _store_local_file(store: ObjectStore, dataset_id: str, split: str, path: Path) -> StoredUpload:
    key = keys.dataset_upload(dataset_id, split, check_file_name(path.name, param=split))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredUpload(split, path.name, key, store.put_file(key, path), sha256)
