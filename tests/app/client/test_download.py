import fcntl
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from app.client import download as download_module
from app.client.api import ClientError
from app.client.download import download, unpack, verify

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class FlakyServer(ThreadingHTTPServer):
    """A file server behind a bad line: it hangs up after `bytes_per_answer` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _FlakyHandler)
        self.bytes_per_answer = len(CONTENT)
        self.knows_ranges = True
        self.ranges: list[str | None] = []
        self.answers_first: list[int] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _FlakyHandler(BaseHTTPRequestHandler):
    server: FlakyServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.answers_first:
            self.send_response(self.server.answers_first.pop(0))
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.knows_ranges else 0
        rest = CONTENT[start:]
        self.send_response(206 if asked and self.server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.bytes_per_answer])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[FlakyServer]:
    server = FlakyServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "PAUSE_SECONDS", 0.0)


def fetch(server: FlakyServer, target: Path, *, sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> None:
    with httpx.Client(base_url=server.address) as http:
        download(http, "/file", target, size_bytes=len(CONTENT), sha256=sha256)


class TestDownload:
    def test_writes_the_whole_file(self, flaky: FlakyServer, tmp_path: Path) -> None:
        fetch(flaky, tmp_path / "new" / "file")
        assert (tmp_path / "new" / "file").read_bytes() == CONTENT
        assert flaky.ranges == ["bytes=0-"]

    def test_goes_on_where_a_broken_transfer_stopped(self, flaky: FlakyServer, tmp_path: Path) -> None:
        flaky.bytes_per_answer = 400_000
        fetch(flaky, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert flaky.ranges == ["bytes=0-", "bytes=400000-", "bytes=800000-"]

    def test_goes_on_where_an_earlier_process_stopped(self, flaky: FlakyServer, tmp_path: Path) -> None:
        (tmp_path / "file.part").write_bytes(CONTENT[:1000])
        fetch(flaky, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert flaky.ranges == ["bytes=1000-"]

    def test_starts_over_where_the_server_knows_no_ranges(self, flaky: FlakyServer, tmp_path: Path) -> None:
        flaky.knows_ranges = False
        (tmp_path / "file.part").write_bytes(b"old")
        fetch(flaky, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT

    def test_refuses_other_content_and_keeps_nothing(self, flaky: FlakyServer, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match="sha256"):
            fetch(flaky, tmp_path / "file", sha256="0" * 64)
        assert list(tmp_path.iterdir()) == []

    def test_leaves_another_process_alone(self, flaky: FlakyServer, tmp_path: Path) -> None:
        """Harm: two that fetch the same job write their bytes among each other's."""
        with (tmp_path / "file.part").open("ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            with pytest.raises(ClientError, match="Another process is downloading"):
                fetch(flaky, tmp_path / "file")
        assert flaky.ranges == []

    def test_outlasts_a_store_that_is_away_for_a_while(self, flaky: FlakyServer, tmp_path: Path) -> None:
        flaky.answers_first = [503, 502]
        fetch(flaky, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert len(flaky.ranges) == 3

    def test_gives_up_when_nothing_arrives_any_more(self, flaky: FlakyServer, tmp_path: Path) -> None:
        flaky.bytes_per_answer = 0
        with pytest.raises(ClientError, match="stopped at 0 of 1048576 bytes"):
            fetch(flaky, tmp_path / "file")
        assert len(flaky.ranges) == download_module.ATTEMPTS_WITHOUT_PROGRESS


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def student_of(path: Path, content: bytes = b"x") -> Path:
    """An archive whose manifest names one file of the content `x`."""
    entry = {"path": "sub/file", "size_bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    manifest = json.dumps({"files": [entry]}).encode()
    return archive_of(
        path, (tarfile.TarInfo("top/sub/file"), content), (tarfile.TarInfo("top/manifest.json"), manifest)
    )


class TestUnpack:
    @pytest.mark.parametrize("is_there", [True, False])
    def test_writes_the_folder_under_the_given_name(self, is_there: bool, tmp_path: Path) -> None:
        if is_there:
            (tmp_path / "student").mkdir()
        assert unpack(student_of(tmp_path / "a.tar.gz"), tmp_path / "student") == 1
        assert (tmp_path / "student" / "sub" / "file").read_bytes() == b"x"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "student"]

    def test_leaves_what_has_come_there_meanwhile(self, tmp_path: Path) -> None:
        """Harm: of two commands in one folder the second deletes the student of the first."""
        (tmp_path / "student").mkdir()
        (tmp_path / "student" / "other").touch()
        with pytest.raises(ClientError, match=r"student holds something by now.*The student is in .*a\.tar\.gz"):
            unpack(student_of(tmp_path / "a.tar.gz"), tmp_path / "student")
        assert [path.name for path in (tmp_path / "student").iterdir()] == ["other"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "student"]

    def test_leaves_no_student_that_is_not_proved(self, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match="sub/file does not have the sha256"):
            unpack(student_of(tmp_path / "a.tar.gz", b"y"), tmp_path / "student")
        assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]

    @pytest.mark.parametrize("name", ["../evil", "/evil", "top/../../evil"])
    def test_refuses_a_path_that_leads_out(self, tmp_path: Path, name: str) -> None:
        archive = archive_of(tmp_path / "a.tar.gz", (tarfile.TarInfo(name), b"x"))
        with pytest.raises(ClientError, match="evil"):
            unpack(archive, tmp_path / "inner" / "student")
        assert not list(tmp_path.rglob("evil"))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_refuses_what_is_not_a_file(self, tmp_path: Path, kind: bytes) -> None:
        member = tarfile.TarInfo("top/odd")
        member.type, member.linkname = kind, "/etc/passwd"
        with pytest.raises(ClientError, match="not a plain file"):
            unpack(archive_of(tmp_path / "a.tar.gz", (member, b"")), tmp_path / "student")

    def test_refuses_more_than_the_limit(self, tmp_path: Path) -> None:
        archive = archive_of(tmp_path / "a.tar.gz", (tarfile.TarInfo("top/big"), b"0" * 1000))
        with pytest.raises(ClientError, match="more than 999 bytes"):
            unpack(archive, tmp_path / "student", limit_bytes=999)


class TestVerify:
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "config.json").write_text("{}")
        entry = {"path": "config.json", "size_bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
        (tmp_path / "manifest.json").write_text(json.dumps({"files": [entry]}))
        return tmp_path

    def test_counts_the_files_that_are_right(self, tmp_path: Path) -> None:
        assert verify(self.folder(tmp_path)) == 1

    def test_refuses_a_changed_file(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        (folder / "config.json").write_text("[]")
        with pytest.raises(ClientError, match=r"config\.json does not have the sha256"):
            verify(folder)

    def test_refuses_a_file_that_the_manifest_does_not_name(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        (folder / "extra.bin").touch()
        with pytest.raises(ClientError, match=r"extra\.bin"):
            verify(folder)

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        (folder / "config.json").unlink()
        with pytest.raises(ClientError, match=r"config\.json"):
            verify(folder)
