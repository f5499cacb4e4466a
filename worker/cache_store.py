"""Cache entries in the object store: what one job computed and the next may start from.

An entry is `cache/{kind}/{key}/` with an index of its files, written last: a file that the index does not
list is not there. The key says what went in, so any job's entry is as good as another's; the first stays. They need
not be the same bytes, so each is stored under its hash: two jobs that store the same at once would else have the index
of one name the bytes of the other.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from app.domain.files import StoredFile
from app.storage import keys
from app.storage.store import ObjectMissing
from worker.distill.cache_keys import TUNED_TEACHERS
from worker.files import describe_files
from worker.patience import STORAGE_PATIENCE_SECONDS, StorageUnavailable, patiently
from worker.work import Check, DamagedObject, Work

# To compute most entries costs minutes, and an entry that could not be stored is tried again after the checkpoints
# that wait meanwhile.
PATIENCE_SECONDS = 60.0

log = structlog.get_logger(__name__)


class _CacheFile(StoredFile):
    object: str  # its name in the entry's folder


def fetch_entries(work: Work, wanted: Sequence[tuple[str, str]], folder: Path) -> list[str]:
    """Fetch those of the (kind, key) entries that are stored into FOLDER/KIND/KEY; returns their kinds.

    A damaged entry is forgotten, so that this run's own takes its place.
    """
    found = []
    for kind, key in wanted:
        target = folder / kind / key
        # To tune a teacher again costs hours, and no checkpoint has what an earlier attempt made of it.
        patience_seconds = STORAGE_PATIENCE_SECONDS if kind == TUNED_TEACHERS else PATIENCE_SECONDS
        try:
            files = _read_index(work, kind, key, work.keeper.check, patience_seconds)
            if not files:
                continue
            for file in files:
                object_key = keys.cache_file(kind, key, file["object"])
                work.download(object_key, target / file["path"], sha256=file["sha256"])
        except DamagedObject as error:
            log.warning("cache_entry_ignored", kind=kind, key=key, error=str(error))
            shutil.rmtree(target, ignore_errors=True)
            _forget(work, kind, key)
        except StorageUnavailable as error:
            log.warning("cache_entry_not_fetched", kind=kind, key=key, error=str(error))
            shutil.rmtree(target, ignore_errors=True)
        else:
            found.append(kind)
            _note_use(work, kind, key)
    return found


def store_entry(work: Work, kind: str, key: str, folder: Path, *, check: Check) -> None:
    """Store the files of an entry that are not stored yet."""
    made = [_name_object(file) for file in describe_files(folder)]
    new = _without(made, _read_index(work, kind, key, check, PATIENCE_SECONDS))
    if not new:
        return
    for file in new:
        object_key = keys.cache_file(kind, key, file["object"])
        patiently(
            partial(work.store.put_file, object_key, folder / file["path"]),
            what=f"storing {object_key}",
            check=check,
            patience_seconds=PATIENCE_SECONDS,
        )
    # Another job may have stored the same meanwhile.
    stored = _read_index(work, kind, key, check, PATIENCE_SECONDS)
    added = _without(new, stored)
    if added:
        _write_index(work, kind, key, [*stored, *added], check)
        log.info("cache_entry_stored", kind=kind, key=key, files=[file["path"] for file in added])
    named = {file["object"] for file in [*stored, *added]}
    _remove(work, kind, key, [file["object"] for file in new if file["object"] not in named], check)


def _name_object(file: StoredFile) -> _CacheFile:
    return {**file, "object": f"{file['path']}.{file['sha256']}"}


def _without(files: Sequence[_CacheFile], stored: Sequence[_CacheFile]) -> list[_CacheFile]:
    paths = {file["path"] for file in stored}
    return [file for file in files if file["path"] not in paths]


def _read_index(work: Work, kind: str, key: str, check: Check, patience_seconds: float) -> list[_CacheFile]:
    index_key = keys.cache_file(kind, key, keys.CACHE_INDEX)
    try:
        content = patiently(
            lambda: work.store.get_bytes(index_key),
            what=f"fetching {index_key}",
            check=check,
            patience_seconds=patience_seconds,
        )
        files: Any = json.loads(content)["files"]
        return [_read_file(kind, key, file) for file in files]
    except ObjectMissing:
        return []
    except (ValueError, KeyError, TypeError):
        log.warning("cache_index_ignored", key=index_key)
        return []


def _read_file(kind: str, key: str, file: Any) -> _CacheFile:
    """Raises ValueError where one of its names would lead out of the entry's folder."""
    path, stored_as = str(file["path"]), keys.name_in_cache(file)
    for name in (path, stored_as):
        keys.cache_file(kind, key, name)
    return {"path": path, "size_bytes": int(file["size_bytes"]), "sha256": str(file["sha256"]), "object": stored_as}


def _note_use(work: Work, kind: str, key: str) -> None:
    """Retention counts from the last use: write the index anew, once a day at most."""
    index_key = keys.cache_file(kind, key, keys.CACHE_INDEX)
    try:
        used_at = patiently(
            lambda: work.store.modified_at(index_key),
            what=f"asking for the age of {index_key}",
            check=work.keeper.check,
            patience_seconds=PATIENCE_SECONDS,
        )
        if datetime.now(UTC) - used_at > timedelta(days=1):
            # Read again: while the files were fetched another job may have added some.
            files = _read_index(work, kind, key, work.keeper.check, PATIENCE_SECONDS)
            _write_index(work, kind, key, files, work.keeper.check)
    except (ObjectMissing, StorageUnavailable) as error:
        log.warning("cache_use_not_noted", kind=kind, key=key, error=str(error))


def _forget(work: Work, kind: str, key: str) -> None:
    try:
        _write_index(work, kind, key, [], work.keeper.check)
    except StorageUnavailable as error:
        log.warning("cache_entry_not_forgotten", kind=kind, key=key, error=str(error))


def _remove(work: Work, kind: str, key: str, objects: Iterable[str], check: Check) -> None:
    """Delete what the index does not name; whoever is about to name the same object finds it gone, and computes it."""
    for name in objects:
        object_key = keys.cache_file(kind, key, name)
        try:
            patiently(
                partial(work.store.delete, [object_key]),
                what=f"deleting {object_key}",
                check=check,
                patience_seconds=PATIENCE_SECONDS,
            )
        except StorageUnavailable as error:
            log.warning("cache_object_not_deleted", key=object_key, error=str(error))


def _write_index(work: Work, kind: str, key: str, files: Sequence[_CacheFile], check: Check) -> None:
    index_key = keys.cache_file(kind, key, keys.CACHE_INDEX)
    content = json.dumps({"files": list(files)}).encode()
    patiently(
        lambda: work.store.put_bytes(index_key, content),
        what=f"storing {index_key}",
        check=check,
        patience_seconds=PATIENCE_SECONDS,
    )
