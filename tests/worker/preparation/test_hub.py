"""Downloads from a hub: what arrives, what is refused before it moves, and what a person is told."""

import errno
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from tests.worker.preparation.conftest import change_json
from tests.worker.preparation.hub_server import COMMIT, Hub, hub_server
from worker.preparation import hub as hub_module
from worker.preparation import hub_download
from worker.preparation.errors import PreparationFailed, Tick, no_tick
from worker.preparation.hub import download_teacher, start_download
from worker.preparation.hub_download import fetch_teacher
from worker.preparation.teachers import describe_teacher

GIB = 1024**3


@pytest.fixture
def hub(bert: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in bert.iterdir()}
    files |= {"README.md": b"# Tiny", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph"}
    with hub_server(Hub({"org/tiny": files})) as hub:
        yield hub


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "RETRY_AFTER_SECONDS", (0.01, 0.01))


def download(hub: Hub, folder: Path, repo: str = "org/tiny", revision: str = "main", token: str | None = None) -> str:
    """In this process, whatever the size: the cases are many, and a process takes its time."""
    return fetch_teacher(repo, revision, folder, endpoint=hub.url, token=token)


def refusal(hub: Hub, folder: Path, repo: str = "org/tiny", revision: str = "main") -> PreparationFailed:
    with pytest.raises(PreparationFailed) as caught:
        download(hub, folder, repo, revision)
    return caught.value


class TestFetchTeacher:
    def test_brings_the_teacher_and_nothing_else(self, hub: Hub, bert: Path, tmp_path: Path) -> None:
        commit = download(hub, tmp_path / "teacher")

        assert commit == COMMIT
        assert describe_teacher(tmp_path / "teacher").sha256 == describe_teacher(bert).sha256
        assert "pytorch_model.bin" not in hub.downloads
        assert "README.md" not in hub.downloads

    def test_takes_a_named_revision(self, hub: Hub, tmp_path: Path) -> None:
        assert download(hub, tmp_path / "teacher", revision="v1") == COMMIT

    def test_sends_the_token_of_the_settings_and_no_other(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
        download(hub, tmp_path / "without")
        assert hub.tokens == {None}
        download(hub, tmp_path / "with", token="hf_of_the_settings")
        assert hub.tokens == {None, "Bearer hf_of_the_settings"}

    def test_pickles_alone_are_refused_before_anything_moves(self, hub: Hub, tmp_path: Path) -> None:
        del hub.repos["org/tiny"]["model.safetensors"]
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_weights_not_safetensors"
        assert "org/tiny at revision main" in failure.message
        assert hub.downloads == []

    def test_unsupported_family_is_refused_before_the_weights_move(self, hub: Hub, bert: Path, tmp_path: Path) -> None:
        change_json(bert / "config.json", model_type="llama")
        hub.repos["org/tiny"]["config.json"] = (bert / "config.json").read_bytes()
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_family_unsupported"
        assert hub.downloads == ["config.json"]

    def test_unknown_repository(self, hub: Hub, tmp_path: Path) -> None:
        failure = refusal(hub, tmp_path / "teacher", repo="org/absent")
        assert failure.code == "teacher_hub_not_found"
        assert "org/absent" in failure.message

    def test_unknown_revision(self, hub: Hub, tmp_path: Path) -> None:
        failure = refusal(hub, tmp_path / "teacher", revision="v9")
        assert failure.code == "teacher_hub_not_found"
        assert "v9" in failure.message

    def test_gated_repository(self, hub: Hub, tmp_path: Path) -> None:
        hub.gated.add("org/tiny")
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_hub_not_found"
        assert "STILLHOUSE_HUB_TOKEN" in failure.message

    def test_a_name_that_cannot_be_a_repository(self, hub: Hub, tmp_path: Path) -> None:
        assert refusal(hub, tmp_path / "teacher", repo="../../etc").code == "teacher_hub_not_found"

    def test_trouble_that_passes_is_waited_for(self, hub: Hub, tmp_path: Path) -> None:
        hub.troubles = 2
        assert download(hub, tmp_path / "teacher") == COMMIT

    def test_trouble_that_stays(self, hub: Hub, tmp_path: Path) -> None:
        hub.troubles = 10_000
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_hub_unreachable"
        assert "HTTP 503" in failure.message
        assert "STILLHOUSE_HUB_ENDPOINT" in failure.message

    def test_nobody_there(self, hub: Hub, tmp_path: Path) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            hub.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert refusal(hub, tmp_path / "teacher").code == "teacher_hub_unreachable"

    def test_parts_that_the_index_does_not_name_stay_where_they_are(self, hub: Hub, bert: Path, tmp_path: Path) -> None:
        """Harm: a repository with its weights in two precisions takes the disk, and the hour, of both."""
        files = put_in_parts(hub, bert)
        hub.repos["org/tiny"]["model-fp16-00001-of-00001.safetensors"] = files["model-00001-of-00002.safetensors"]
        download(hub, tmp_path / "teacher")
        assert "model-fp16-00001-of-00001.safetensors" not in hub.downloads
        assert describe_teacher(tmp_path / "teacher").summary == describe_teacher(bert).summary

    def test_part_that_the_index_names_is_missed_before_the_others_move(
        self, hub: Hub, bert: Path, tmp_path: Path
    ) -> None:
        put_in_parts(hub, bert)
        del hub.repos["org/tiny"]["model-00002-of-00002.safetensors"]
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_files_missing"
        assert "'model-00002-of-00002.safetensors'" in failure.message
        assert sorted(hub.downloads) == ["config.json", "model.safetensors.index.json"]

    def test_more_than_a_teacher_takes_is_refused_before_the_weights_move(self, hub: Hub, tmp_path: Path) -> None:
        """Harm: anybody who may post a teacher can fill the worker's disk."""
        hub.sizes["model.safetensors"] = 21 * GIB
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_too_large"
        assert failure.message.startswith("The teacher's files in org/tiny at revision main have 21.0 GiB")
        assert hub.downloads == ["config.json"]

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_what_is_read_as_a_whole_is_refused_where_it_is_large(self, hub: Hub, tmp_path: Path, name: str) -> None:
        """Harm: a config.json of gigabytes is parsed in the worker's memory."""
        hub.sizes[name] = GIB
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_too_large"
        assert failure.message.startswith(f"{name} of org/tiny at revision main has {GIB} bytes")
        assert hub.downloads == []

    def test_trouble_of_the_store_that_has_the_weights(self, hub: Hub, tmp_path: Path) -> None:
        """Harm: what hf-xet raises is no error of the hub's library, and ended as an error of the worker's own."""
        hub.stored_behind.add("model.safetensors")
        failure = refusal(hub, tmp_path / "teacher")
        assert failure.code == "teacher_hub_unreachable"
        assert hub.store_requests >= 3

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("Data processing error: CAS service error : ReqwestMiddleware Error: Request failed"),
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            TimeoutError("The read operation timed out"),
            OSError("Consistency check failed: file should be of size 9 but has size 7"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_trouble_from_below_the_library_is_waited_for(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        troubles = raise_first(monkeypatch, error, times=2)
        assert download(hub, tmp_path / "teacher") == COMMIT
        assert troubles == []

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            RuntimeError("Data processing error: File I/O error: No space left on device (os error 28)"),
            RuntimeError("Data processing error: I/O error: Disk quota exceeded (os error 122)"),
        ],
        ids=["room", "quota", "room for hf-xet", "quota of hf-xet"],
    )
    def test_full_disk_is_told_from_trouble_of_the_hub(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        troubles = raise_first(monkeypatch, error, times=2)
        with pytest.raises(OSError, match="No space left") as caught:
            download(hub, tmp_path / "teacher")
        assert caught.value.errno == errno.ENOSPC
        assert len(troubles) == 1, "asking again frees no room"

    def test_trouble_with_a_file_of_the_worker_is_not_the_hubs(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(NotADirectoryError):
            download(hub, tmp_path / "file" / "teacher")


class TestDownloadTeacher:
    """The same in a process of its own."""

    def run(self, hub: Hub, folder: Path, repo: str = "org/tiny", tick: Tick = no_tick) -> str:
        return download_teacher(repo, "main", folder, endpoint=hub.url, token="hf_of_the_settings", tick=tick)

    def test_brings_the_teacher(self, hub: Hub, bert: Path, tmp_path: Path) -> None:
        assert self.run(hub, tmp_path / "teacher") == COMMIT
        assert describe_teacher(tmp_path / "teacher").sha256 == describe_teacher(bert).sha256
        assert hub.tokens == {"Bearer hf_of_the_settings"}

    def test_says_why_it_cannot(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(PreparationFailed, match="org/absent") as caught:
            self.run(hub, tmp_path / "teacher", repo="org/absent")
        assert caught.value.code == "teacher_hub_not_found"

    def test_full_disk_stays_one(self, hub: Hub, tiny_disk: Path) -> None:
        hub.repos["org/tiny"]["model.safetensors"] = bytes(1_000_000)
        with pytest.raises(OSError, match="No space left") as caught:
            self.run(hub, tiny_disk / "teacher")
        assert caught.value.errno == errno.ENOSPC

    def test_an_end_without_an_answer_is_an_error(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONHOME", str(tmp_path / "no python here"))
        with pytest.raises(RuntimeError, match="without an answer"):
            self.run(hub, tmp_path / "teacher")

    def test_a_stop_is_heard_while_the_weights_are_on_their_way(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a worker told to stop, or whose teacher is deleted, downloads gigabytes first."""
        started: list[subprocess.Popen[bytes]] = []

        def start(**request: Any) -> "subprocess.Popen[bytes]":
            started.append(start_download(**request))
            return started[0]

        class Stopped(Exception):
            pass

        def tick() -> None:
            if "model.safetensors" in hub.downloads:
                raise Stopped

        monkeypatch.setattr(hub_module, "start_download", start)
        hub.held = "model.safetensors"
        with pytest.raises(Stopped):
            self.run(hub, tmp_path / "teacher", tick=tick)
        assert started[0].returncode == -signal.SIGKILL

    def test_ends_with_the_worker_that_started_it(self, hub: Hub, tmp_path: Path) -> None:
        """Harm: of a worker that was killed, a download stays behind."""
        with held_download(hub, tmp_path) as process:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 1

    @pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at the process as Linux shows it")
    def test_is_told_no_secrets(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: what talks to a stranger's server has the keys of the database and of the store."""
        for name in ("STILLHOUSE_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "OTEL_EXPORTER_OTLP_HEADERS"):
            monkeypatch.setenv(name, "hunter2")
        with held_download(hub, tmp_path) as process:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            process.kill()
        assert b"PYTHONSAFEPATH=1" in environment
        assert b"hunter2" not in environment


@contextmanager
def held_download(hub: Hub, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A download under way, whose weights do not come."""
    hub.held = "model.safetensors"
    request = {"repo": "org/tiny", "revision": "main", "folder": str(folder / "teacher"), "endpoint": hub.url}
    with start_download(**request, token=None) as process:
        while "model.safetensors" not in hub.downloads:
            assert process.poll() is None
            time.sleep(0.05)
        yield process


def put_in_parts(hub: Hub, bert: Path) -> dict[str, bytes]:
    """Give the teacher's weights in two parts; returns the repository's files."""
    files = hub.repos["org/tiny"]
    del files["model.safetensors"]
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    (bert / "model.safetensors").unlink()
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    model.save_pretrained(bert, max_shard_size=f"{size // 1500}KB")
    files |= {path.name: path.read_bytes() for path in bert.iterdir()}
    assert len([name for name in files if name.startswith("model-")]) == 2
    return files


def raise_first(monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int) -> list[Exception]:
    """Have the library raise the error so many times before it downloads; returns those that are still to come."""
    troubles = [error] * times
    snapshot_download = hub_download.snapshot_download

    def raise_or_download(*args: Any, **options: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return snapshot_download(*args, **options)

    monkeypatch.setattr(hub_download, "snapshot_download", raise_or_download)
    return troubles
