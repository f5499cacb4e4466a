"""Objects in a folder, in S3 or in what else obstore reaches, behind one small class.

Keys come from `app.storage.keys`. A write shows up whole or not at all. Reading or measuring an object that
is not there raises ObjectMissing. The plain functions block; those named ``*_async`` and `open_writer_async`
are for routes that stream.
"""

import asyncio
import contextlib
import itertools
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, GenericError, NotFoundError, PreconditionError
from obstore.store import LocalStore, from_url

from app.prometheus import OBJECT_STORE_SECONDS
from app.settings import Settings
from app.storage import keys

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig
    from obstore.store import ObjectStore as Backend

# What has not made a whole chunk is lost when a read breaks off, and read again.
STREAM_CHUNK_BYTES = 256 * 1024
# The least that S3 takes as a part; of its 10,000 parts come 48 GiB.
UPLOAD_CHUNK_BYTES = 5 * 1024 * 1024
UPLOAD_CONCURRENCY = 4
# Over a slower line uploads fail. The slower it may be, the later a store is noticed that fell silent during one.
SLOWEST_UPLOAD_BYTES_PER_SECOND = 128 * 1024
# obstore has no way to say "never". A deadline over a whole answer would break off every download that takes
# longer, however well it goes, so what is watched instead is the silence between two reads.
_NEVER = timedelta(days=365)
# As many as S3 deletes in one request.
DELETE_BATCH = 1000
# More than servers keep in their index beside the name of a small object: the disks for the bytes are asked too.
PROBE_BYTES = 1024 * 1024
# As long as so much takes over the slowest line.
PROBE_SECONDS = 10.0

# The folder backend writes `name#1` and renames it when it is whole.
_UNFINISHED = re.compile(r"#\d+$")


class ObjectMissing(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(f"there is no object {key!r}")
        self.key = key


@dataclass(frozen=True)
class StoredObject:
    key: str
    size_bytes: int
    modified_at: datetime


class ObjectStore:
    """One object store, reached by URL: ``file:///folder``, ``s3://bucket/prefix``, ``gs://`` or ``az://``."""

    def __init__(
        self, url: str, *, timeout_seconds: float = 30.0, retries: int = 5, retry_seconds: float = 60.0
    ) -> None:
        """`timeout_seconds` is how long a server may stay silent; one that is being written to, as much longer as a
        slow line needs for what is under way. A request is tried again up to `retries` times within `retry_seconds`,
        for writes longer in the same way; a download goes on from where it broke off, as often as that many tries in
        a row bring at least something."""
        self.url = url
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._retry_seconds = retry_seconds
        # Folders are ours to make; buckets are the operator's.
        self.folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
        self._backend = self._open_backend()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.object_store_url)

    @cached_property
    def _write_backend(self) -> "Backend":
        # The library's clock runs from the beginning of a request to the first word of its answer, so also while the
        # body is sent: with the time that reads have, every upload over a slow line would fail, however well it flows.
        # All the parts under way share the line.
        sending = UPLOAD_CONCURRENCY * UPLOAD_CHUNK_BYTES / SLOWEST_UPLOAD_BYTES_PER_SECOND
        return self._backend if self.folder is not None else self._open_backend(sending_seconds=sending)

    def _open_backend(self, sending_seconds: float = 0.0) -> "Backend":
        if self.folder is not None:
            return LocalStore(self.folder, mkdir=True)
        return from_url(
            self.url,
            config=cast(Any, _s3_config(self.url)),
            client_options=_client_options(self._timeout_seconds, sending_seconds),
            retry_config={
                "max_retries": self._retries,
                "retry_timeout": timedelta(seconds=self._retry_seconds + sending_seconds),
            },
        )

    def put_file(self, key: str, path: Path) -> int:
        """Store a file and return its size in bytes."""
        with _measured("put"):
            self._put(key, path)
            self._make_durable(key)
        return path.stat().st_size

    def put_bytes(self, key: str, content: bytes) -> None:
        with _measured("put"):
            self._put(key, content)
            self._make_durable(key)

    def get_file(self, key: str, path: Path) -> int:
        """Write the object to `path`, whose folders are made, and return its size in bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with path.open("wb") as file:
            for chunk in self.stream(key):
                size += file.write(chunk)
        return size

    def get_bytes(self, key: str) -> bytes:
        with _measured("get", key, self.folder):
            return bytes(obstore.get(self._backend, key).bytes())

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to, not including, `end`."""
        with _measured("get", key, self.folder):
            return bytes(obstore.get_range(self._backend, key, start=start, end=end))

    def stream(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The object's bytes in chunks, from `start` up to, not including, `end`."""
        download = _Download(start, end, resumptions=self._retries if self.folder is None else 0)
        while not download.is_whole:
            with _measured("get", key, self.folder):
                result = obstore.get(self._backend, key, options=download.options())
            download.began(result)
            try:
                for chunk in result.stream(min_chunk_size=STREAM_CHUNK_BYTES):
                    download.position += len(chunk)
                    yield bytes(chunk)
                download.ended(key)
            except BaseError as error:
                download.broke_off(error)

    async def stream_async(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As `stream`, for a route. An empty range gives no chunk."""
        if end is not None and end <= start:
            return
        download = _Download(start, end, resumptions=self._retries if self.folder is None else 0)
        while not download.is_whole:
            with _measured("get", key, self.folder):
                result = await obstore.get_async(self._backend, key, options=download.options())
            download.began(result)
            try:
                async for chunk in result.stream(min_chunk_size=STREAM_CHUNK_BYTES):
                    download.position += len(chunk)
                    yield bytes(chunk)
                download.ended(key)
            except BaseError as error:
                download.broke_off(error)

    @asynccontextmanager
    async def open_writer_async(self, key: str) -> AsyncIterator["AsyncWriter"]:
        """A writer with ``await writer.write(chunk)``. The object appears when the block ends without an
        error; with an error, also with a cancelled request, nothing is left of it."""
        began = time.perf_counter()
        try:
            async with obstore.open_writer_async(
                self._write_backend, key, buffer_size=UPLOAD_CHUNK_BYTES, max_concurrency=UPLOAD_CONCURRENCY
            ) as backend_writer:
                writer = AsyncWriter(backend_writer)
                yield writer
                received = time.perf_counter()
            if self.folder is not None:
                await asyncio.to_thread(self._make_durable, key)
        except BaseError:
            OBJECT_STORE_SECONDS.labels("put", "error").observe(time.perf_counter() - began)
            raise
        # What the sender took is not the store's time.
        OBJECT_STORE_SECONDS.labels("put", "ok").observe(writer.seconds + time.perf_counter() - received)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """The objects inside the folder `prefix`."""
        pages = obstore.list(self._backend, prefix, chunk_size=1000)
        with _measured("list"):
            first = next(pages, [])
        for page in itertools.chain([first], pages):
            for meta in page:
                yield StoredObject(meta["path"], meta["size"], meta["last_modified"])

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        with _measured("head", key, self.folder):
            return obstore.head(self._backend, key)["size"]

    def modified_at(self, key: str) -> datetime:
        """When the object was written last, by the store's clock."""
        with _measured("head", key, self.folder):
            return obstore.head(self._backend, key)["last_modified"]

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except ObjectMissing:
            return False
        return True

    def unfinished(self, prefix: str, *, older_than_seconds: float = 0.0) -> Iterator[str]:
        """What writers that were killed left inside the folder `prefix`, untouched for so long; `list` does not show
        it.

        On S3 nothing is seen here: give the bucket a rule that ends incomplete multipart uploads.
        """
        if self.folder is None:
            return
        for path in sorted((self.folder / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # its writer is done, or gave up
                is_left = time.time() - path.stat().st_mtime >= older_than_seconds
                if is_left and _UNFINISHED.search(path.name) and path.is_file():
                    yield path.relative_to(self.folder).as_posix()

    def delete(self, object_keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error. A folder keeps no empty folders."""
        if self.folder is not None:
            for key in object_keys:
                with _measured("delete"):
                    self._delete_file(self.folder, self.folder / key)
            return
        remaining = [*object_keys]
        while remaining:
            with _measured("delete"):
                obstore.delete(self._backend, remaining[:DELETE_BATCH])
            remaining = remaining[DELETE_BATCH:]

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object inside the folder `prefix` and return how many there were."""
        found = [stored.key for stored in self.list(prefix)]
        self.delete([*found, *self.unfinished(prefix)])
        return len(found)

    def check(self) -> None:
        """Raise what is wrong, within seconds, when the store cannot be reached."""
        probe = self if self.folder is not None else ObjectStore(self.url, timeout_seconds=2.0, retries=0)
        next(iter(probe.list(keys.PROBES)), None)

    def answers(self) -> bool:
        """Whether the store can be reached, found out within seconds: what just failed was then about its object."""
        try:
            self.check()
        except (BaseError, OSError):
            return False
        return True

    def works(self, probe_key: str) -> bool:
        """Whether the store also takes an object, gives it back and deletes it, found out within half a minute or so.
        One that is full, may only be read, or has lost the disks under its index still lists what it has.

        `probe_key` is that object's: nobody else may use it.
        """
        content = os.urandom(PROBE_BYTES)
        try:
            self.check()
            probe = self if self.folder is not None else ObjectStore(self.url, timeout_seconds=PROBE_SECONDS, retries=0)
            # Not by the backend for writes, which waits for minutes.
            obstore.put(probe._backend, probe_key, content)
            is_kept = probe.get_bytes(probe_key) == content
            probe.delete([probe_key])
        except (BaseError, OSError, ObjectMissing):
            return False
        return is_kept

    def _put(self, key: str, content: Path | bytes) -> None:
        obstore.put(
            self._write_backend, key, content, chunk_size=UPLOAD_CHUNK_BYTES, max_concurrency=UPLOAD_CONCURRENCY
        )

    def _make_durable(self, key: str) -> None:
        # The backend renames a finished file into place but does not sync it: after a power cut a row could
        # name a file without its bytes.
        if self.folder is None:
            return
        path = self.folder / key
        while True:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            if path == self.folder:
                return
            path = path.parent

    @staticmethod
    def _delete_file(folder: Path, path: Path) -> None:
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == folder:
                return
            try:
                parent.rmdir()
            except OSError:
                return  # not empty, or somebody else removed it


class AsyncWriter:
    """What `open_writer_async` gives."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.size_bytes = 0
        # In the store's hands so far.
        self.seconds = 0.0

    async def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        began = time.perf_counter()
        try:
            await self._writer.write(chunk)
        finally:
            self.seconds += time.perf_counter() - began


class _Download:
    """How far a download has come, through as many requests as it takes.

    obstore resumes by itself too, but only within the time that it has for trying a request again, counted from
    the download's first moment: not at all once a big object has flowed for longer than that.
    """

    def __init__(self, start: int, end: int | None, *, resumptions: int) -> None:
        self.position = start
        self._end = end
        self._resumptions = resumptions
        self._e_tag: str | None = None
        self._is_known = False
        # Of the request under way, and how many before it brought nothing.
        self._first = start
        self._fruitless = 0

    @property
    def is_whole(self) -> bool:
        return self._is_known and self._end is not None and self.position >= self._end

    def options(self) -> "GetOptions":
        options: GetOptions = {}
        if self._end is not None:
            options["range"] = (self.position, self._end)
        elif self.position:
            options["range"] = {"offset": self.position}
        if self._e_tag is not None:
            # The rest of another object that took its place would make a file that never was.
            options["if_match"] = self._e_tag
        return options

    def began(self, result: "GetResult") -> None:
        self._first = self.position
        if not self._is_known:
            self._is_known = True
            self._end = result.range[1]
            self._e_tag = result.meta["e_tag"]

    def ended(self, key: str) -> None:
        """The request has no more to give; raise where that was less than it promised: it counts as broken off."""
        if not self.is_whole:
            raise GenericError(f"{key}: the object store ended its answer at byte {self.position} of {self._end}")

    def broke_off(self, error: BaseError) -> None:
        """Let the next request go on from here, or raise `error` where that has no prospects."""
        self._fruitless = 0 if self.position > self._first else self._fruitless + 1
        if self._fruitless > self._resumptions or not self._resumptions or isinstance(error, PreconditionError):
            raise error


@contextmanager
def _measured(operation: str, key: str = "", folder: Path | None = None) -> Iterator[None]:
    """Note how long a call took and how it went. That `key` is not there is an answer too: ObjectMissing. Not where
    the `folder` of them all is gone."""
    began, outcome = time.perf_counter(), "error"
    try:
        yield
        outcome = "ok"
    except (NotFoundError, FileNotFoundError) as error:
        if not key:
            raise
        if folder is not None and not folder.is_dir():
            raise GenericError(f"the object store's folder {folder} is gone: is its disk mounted?") from error
        outcome = "missing"
        raise ObjectMissing(key) from error
    finally:
        OBJECT_STORE_SECONDS.labels(operation, outcome).observe(time.perf_counter() - began)


def _s3_config(url: str) -> dict[str, str] | None:
    """Endpoint and keys come from the usual AWS_* variables; S3-compatible servers need a region too."""
    if not url.startswith("s3:"):
        return None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return {"region": region}


def _client_options(timeout_seconds: float, sending_seconds: float) -> "ClientConfig":
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return {
        "timeout": _NEVER,
        "read_timeout": timedelta(seconds=timeout_seconds + sending_seconds),
        "connect_timeout": timedelta(seconds=min(5.0, timeout_seconds)),
        "allow_http": endpoint.startswith("http://"),
    }
