"""Register, read and delete datasets. What is in the files, a worker judges."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import structlog
from anyio import CancelScope
from anyio.to_thread import run_sync

from app.db.models import Dataset
from app.db.session import read_session, write_session
from app.domain.ids import new_id
from app.errors import Conflict, DatasetNotFound, InvalidRequest, some_of
from app.outages import is_commit_unanswered
from app.queue import wake
from app.repositories import cleanups, datasets, imports, jobs
from app.repositories.pages import Page
from app.services.multipart import read_parts
from app.services.upload_files import check_file_name, stem
from app.services.uploads import ReceivedForm, StoredUpload, receive_form
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectStore

log = structlog.get_logger(__name__)


async def receive(settings: Settings, store: ObjectStore, *, content_type: str, body: AsyncIterator[bytes]) -> Dataset:
    """Receive the form of POST /datasets and register what it brought, or leave nothing behind.

    The database is asked twice and shortly: before the first byte, so that the sweep knows what to remove if
    this process dies meanwhile, and after the last one.
    """
    dataset_id = new_id("dataset")
    await run_sync(expect_objects, settings, dataset_id)
    try:
        async with aclosing(read_parts(content_type, body)) as parts:
            form = await receive_form(parts, store, dataset_id=dataset_id, max_bytes=settings.max_upload_bytes)
    except BaseException:
        # A cancelled request has to clean up as well.
        with CancelScope(shield=True):
            await run_sync(_discard, settings, store, dataset_id)
        raise
    dataset = await run_sync(_create_or_discard, settings, store, dataset_id, form)
    await run_sync(wake, settings)
    return dataset


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
    form = ReceivedForm(fields={field: value for field, value in columns.items() if value})
    expect_objects(settings, dataset_id)
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


def expect_objects(settings: Settings, dataset_id: str) -> None:
    """Have the sweep look for objects of a dataset that, should this process die, no row will ever name."""
    with write_session(settings) as session:
        cleanups.schedule(session, keys.dataset_root(dataset_id), delay_seconds=cleanups.UPLOAD_SECONDS)


def _create_or_discard(settings: Settings, store: ObjectStore, dataset_id: str, form: ReceivedForm) -> Dataset:
    # In one thread, which ends what it began also where the request is cancelled meanwhile.
    try:
        return _create(settings, dataset_id, form)
    except Exception as error:
        # The row may be there all the same, and names the files: if it is not, the sweep removes them a day later.
        if not is_commit_unanswered(error):
            _discard(settings, store, dataset_id)
        raise


def _create(settings: Settings, dataset_id: str, form: ReceivedForm) -> Dataset:
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


def _discard(settings: Settings, store: ObjectStore, dataset_id: str) -> None:
    """Delete what was received of a dataset that has no row and will get none."""
    try:
        store.delete_prefix(keys.dataset_root(dataset_id))
        with write_session(settings) as session:
            cleanups.schedule(session, keys.dataset_root(dataset_id), delay_seconds=0)
    except Exception as error:
        # The sweep will do it: what the caller has to hear is the error that ended the upload.
        log.warning("discard_failed", dataset_id=dataset_id, error=str(error))
