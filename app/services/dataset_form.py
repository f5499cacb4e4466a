"""Receives the form of POST /datasets. Parts come in any order."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from app.errors import InvalidRequest, UploadTooLarge
from app.services.dataset_files import check_file_name
from app.services.form_parts import LONGEST_FIELD, expect_nothing, read_text, refuse_text_as_file, store_file
from app.services.multipart import PartBegin, PartEvent
from app.storage import keys
from app.storage.store import ObjectStore

SPLITS = ("train", "validation", "test", "unlabelled")
FIELDS = ("name", "text_column", "text_pair_column", "label_column")


@dataclass(frozen=True)
class StoredUpload:
    """A file of rows that has arrived whole."""

    split: str
    file_name: str
    object_key: str
    size_bytes: int
    sha256: str


@dataclass
class DatasetForm:
    fields: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, StoredUpload] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(upload.size_bytes for upload in self.uploads.values())


async def receive_dataset_form(
    parts: AsyncIterator[PartEvent], store: ObjectStore, *, dataset_id: str, max_bytes: int
) -> DatasetForm:
    """Store the files of the form and return what it said; what is stored when it raises is the caller's to remove.

    `max_bytes` is for all files together, as they are sent (compressed, where they are).
    """
    form = DatasetForm()
    seen: set[str] = set()
    async for event in parts:
        if not isinstance(event, PartBegin):
            continue
        _check_part(event, seen)
        if event.name in FIELDS:
            text = await read_text(event.name, parts)
            if text:
                form.fields[event.name] = text
            continue
        if not event.file_name:
            way_out = (
                f"Send it as a file whose name tells its format, such as with curl -F {event.name}=@{event.name}.csv."
            )
            await expect_nothing(event, parts, way_out=way_out)
            continue
        suffix = check_file_name(event.file_name, param=event.name)
        key = keys.dataset_upload(dataset_id, event.name, suffix)
        stored = await store_file(
            event,
            parts,
            store,
            key=key,
            too_large=UploadTooLarge(max_bytes, "dataset", param=event.name),
            room_bytes=max_bytes - form.size_bytes,
            empty=InvalidRequest(
                f"{event.name} ({event.file_name!r}) is empty: 0 bytes. Send a file with rows.",
                code="dataset_empty",
                param=event.name,
            ),
        )
        form.uploads[event.name] = StoredUpload(event.name, event.file_name, key, stored.size_bytes, stored.sha256)
    if "train" not in form.uploads:
        raise InvalidRequest(
            "The form has no file 'train'. Add it, such as with curl -F train=@train.csv.",
            code="missing_field",
            param="train",
        )
    return form


def _check_part(part: PartBegin, seen: set[str]) -> None:
    if part.name not in SPLITS and part.name not in FIELDS:
        raise InvalidRequest(
            f"{part.name[:LONGEST_FIELD]!r} is not a part of this form. Known are the files {', '.join(SPLITS)} "
            f"and the texts {', '.join(FIELDS)}.",
            code="unknown_field",
            param=part.name[:LONGEST_FIELD],
        )
    if part.name in seen:
        raise InvalidRequest(
            f"The form has the part {part.name!r} twice. Send it once; put all rows of a split into one file.",
            code="duplicate_part",
            param=part.name,
        )
    seen.add(part.name)
    if part.name in FIELDS:
        refuse_text_as_file(part)
