"""The object store on a folder and on a real S3 server."""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from app.settings import get_settings
from app.storage import keys, store
from app.storage.store import ObjectMissing, ObjectStore
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

# More than one part of a multipart upload.
LARGE = os.urandom(1024) * (17 * 1024)


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    return path


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


class TestPutAndGet:
    def test_give_back_a_small_object(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("jobs/a/t/artifact/config.json", b"{}")
        assert object_store.get_bytes("jobs/a/t/artifact/config.json") == b"{}"
        assert object_store.size("jobs/a/t/artifact/config.json") == 2

    def test_give_back_an_empty_object(self, object_store: ObjectStore, tmp_path: Path) -> None:
        object_store.put_bytes("a/empty", b"")
        assert object_store.size("a/empty") == 0
        assert object_store.get_file("a/empty", tmp_path / "empty") == 0
        assert list(object_store.stream("a/empty")) in ([], [b""])

    def test_give_back_a_large_file(self, object_store: ObjectStore, large_file: Path, tmp_path: Path) -> None:
        assert object_store.put_file("a/large", large_file) == len(LARGE)
        target = tmp_path / "below" / "here" / "large.bin"
        assert object_store.get_file("a/large", target) == len(LARGE)
        assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(LARGE).digest()

    def test_replace_an_object_whole(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("a/b", b"a longer first version")
        object_store.put_bytes("a/b", b"second")
        assert object_store.get_bytes("a/b") == b"second"

    def test_say_what_is_missing(self, object_store: ObjectStore, tmp_path: Path) -> None:
        assert not object_store.exists("a/nothing")
        for read in (
            lambda: object_store.size("a/nothing"),
            lambda: object_store.get_bytes("a/nothing"),
            lambda: object_store.get_range("a/nothing", 0, 1),
            lambda: list(object_store.stream("a/nothing")),
            lambda: object_store.get_file("a/nothing", tmp_path / "x"),
            lambda: asyncio.run(collect(object_store.stream_async("a/nothing"))),
        ):
            with pytest.raises(ObjectMissing, match="a/nothing"):
                read()


class TestRanges:
    @pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 7), (9, 10), (0, 10)])
    def test_end_before_their_end(self, object_store: ObjectStore, start: int, end: int) -> None:
        object_store.put_bytes("a/digits", b"0123456789")
        expected = b"0123456789"[start:end]
        assert object_store.get_range("a/digits", start, end) == expected
        assert b"".join(object_store.stream("a/digits", start, end)) == expected
        assert asyncio.run(collect(object_store.stream_async("a/digits", start, end))) == expected

    def test_go_to_the_end_when_open(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("a/digits", b"0123456789")
        assert b"".join(object_store.stream("a/digits", 6)) == b"6789"

    def test_may_be_empty(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("a/digits", b"0123456789")
        assert asyncio.run(collect(object_store.stream_async("a/digits", 4, 4))) == b""

    def test_come_in_chunks_and_not_whole(self, object_store: ObjectStore, large_file: Path) -> None:
        object_store.put_file("a/large", large_file)
        chunks = list(object_store.stream("a/large", 1, len(LARGE) - 1))
        assert b"".join(chunks) == LARGE[1:-1]
        assert max(len(chunk) for chunk in chunks) < len(LARGE) / 2


class TestOpenWriterAsync:
    def test_stores_what_is_streamed_once_it_is_whole(self, object_store: ObjectStore) -> None:
        async def upload() -> int:
            async with object_store.open_writer_async("datasets/a/uploads/train.csv") as writer:
                for start in range(0, len(LARGE), 1_000_000):
                    await writer.write(LARGE[start : start + 1_000_000])
                assert not object_store.exists("datasets/a/uploads/train.csv")
            return writer.size_bytes

        assert asyncio.run(upload()) == len(LARGE)
        assert object_store.get_bytes("datasets/a/uploads/train.csv") == LARGE

    @pytest.mark.parametrize("size_bytes", [10, len(LARGE)])
    def test_leaves_nothing_of_an_upload_that_failed(self, object_store: ObjectStore, size_bytes: int) -> None:
        async def upload() -> None:
            async with object_store.open_writer_async("datasets/a/uploads/train.csv") as writer:
                await writer.write(LARGE[:size_bytes])
                raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            asyncio.run(upload())
        assert not object_store.exists("datasets/a/uploads/train.csv")
        assert list(object_store.unfinished("datasets/a")) == []

    def test_leaves_nothing_of_an_upload_that_was_cancelled(self, object_store: ObjectStore) -> None:
        async def upload() -> None:
            async with object_store.open_writer_async("datasets/a/uploads/train.csv") as writer:
                await writer.write(LARGE)
                await asyncio.sleep(60)

        async def upload_and_go_away() -> None:
            task = asyncio.create_task(upload())
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(upload_and_go_away())
        assert not object_store.exists("datasets/a/uploads/train.csv")
        assert list(object_store.unfinished("datasets/a")) == []

    def test_stores_an_empty_object(self, object_store: ObjectStore) -> None:
        async def upload() -> None:
            async with object_store.open_writer_async("a/empty"):
                pass

        asyncio.run(upload())
        assert object_store.size("a/empty") == 0


class TestListAndDelete:
    def test_stay_inside_the_folder(self, object_store: ObjectStore) -> None:
        for key in ("jobs/a/1/x", "jobs/a/2/y", "jobs/ab/1/z"):
            object_store.put_bytes(key, b"12345")
        assert sorted((item.key, item.size_bytes) for item in object_store.list("jobs/a")) == [
            ("jobs/a/1/x", 5),
            ("jobs/a/2/y", 5),
        ]
        assert object_store.delete_prefix("jobs/a") == 2
        assert list(object_store.list("jobs/a")) == []
        assert object_store.exists("jobs/ab/1/z")

    def test_know_when_an_object_was_written(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("a/b", b"1")
        (item,) = object_store.list("a")
        assert abs(item.modified_at.timestamp() - time.time()) < 60

    def test_do_not_mind_what_is_not_there(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("a/b", b"1")
        object_store.delete(["a/nothing", "a/b", "a/b"])
        assert object_store.delete_prefix("nothing/here") == 0
        assert not object_store.exists("a/b")

    def test_delete_more_than_one_request_can_name(
        self, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "DELETE_BATCH", 7)
        for number in range(30):
            object_store.put_bytes(f"a/{number}", b"")
        assert object_store.delete_prefix("a") == 30
        assert list(object_store.list("a")) == []

    def test_list_more_than_one_answer_holds(self, s3_object_store: ObjectStore) -> None:
        """Harm: what the sweep is not shown stays in the store for ever."""
        put = {f"a/{number}" for number in range(1010)}  # a server shows 1,000 at once
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: s3_object_store.put_bytes(key, b""), put))
        assert {stored.key for stored in s3_object_store.list("a")} == put
        assert s3_object_store.delete_prefix("a") == len(put)
        assert list(s3_object_store.list("a")) == []


class TestFolder:
    def test_keeps_no_empty_folders(self, folder_object_store: ObjectStore) -> None:
        folder_object_store.put_bytes("jobs/a/t/artifact/x", b"1")
        folder_object_store.put_bytes("jobs/b/t/artifact/x", b"1")
        folder_object_store.delete_prefix("jobs/a")
        folder = folder_object_store.folder
        assert folder is not None
        assert [path.name for path in (folder / "jobs").iterdir()] == ["b"]
        folder_object_store.delete_prefix("jobs")
        assert list(folder.iterdir()) == []

    def test_shows_what_a_killed_writer_left_and_deletes_it(self, folder_object_store: ObjectStore) -> None:
        folder = folder_object_store.folder
        assert folder is not None
        folder_object_store.put_bytes("jobs/a/t/x", b"1")
        (folder / "jobs/a/t/x#3").write_bytes(b"half")
        assert [item.key for item in folder_object_store.list("jobs/a")] == ["jobs/a/t/x"]
        assert list(folder_object_store.unfinished("jobs/a")) == ["jobs/a/t/x#3"]
        assert folder_object_store.delete_prefix("jobs/a") == 1
        assert list(folder.iterdir()) == []

    def test_that_is_gone_has_lost_no_object(self, folder_object_store: ObjectStore) -> None:
        """Harm: the disk is not mounted, and jobs fail and forget their checkpoints for what lies safe on it."""
        folder = folder_object_store.folder
        assert folder is not None
        folder_object_store.put_bytes("a/b", b"1")
        shutil.rmtree(folder)
        for ask in (folder_object_store.get_bytes, folder_object_store.size, folder_object_store.exists):
            with pytest.raises(GenericError, match="is its disk mounted"):
                ask("a/b")

    def test_may_lie_in_a_folder_with_spaces(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        folder = tmp_path / "my objects é"
        store = ObjectStore.from_settings(change_settings(object_store_url=folder.as_uri()))
        store.put_bytes("a/b", b"1")
        assert (folder / "a" / "b").read_bytes() == b"1"
        store.delete(["a/b"])
        assert not store.exists("a/b")


class TestWorks:
    def test_leaves_nothing_of_what_it_tried(self, object_store: ObjectStore) -> None:
        object_store.put_bytes("a/b", b"1")
        assert object_store.works(keys.probe("a"))
        assert [stored.key for stored in object_store.list("")] == ["a/b"]


class TestCheck:
    def test_is_silent_when_the_store_answers(self, object_store: ObjectStore) -> None:
        object_store.check()

    def test_says_within_seconds_that_nobody_answers(
        self, s3_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert s3_object_store.url == get_settings().object_store_url
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        started = time.monotonic()
        with pytest.raises(Exception, match=r"127\.0\.0\.1"):
            ObjectStore.from_settings(get_settings()).check()
        assert time.monotonic() - started < 30

    def test_says_that_the_key_is_wrong(self, s3_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        assert s3_object_store.url == get_settings().object_store_url
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(Exception, match=r"403|SignatureDoesNotMatch|Forbidden"):
            ObjectStore.from_settings(get_settings()).check()
