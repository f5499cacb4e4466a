"""Downloads from a hub: what arrives, what is refused before it moves, and what a person is told."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.preparation.conftest import change_json
from tests.worker.preparation.hub_server import COMMIT, Hub, hub_server
from worker.preparation import hub as hub_module
from worker.preparation.errors import PreparationFailed
from worker.preparation.hub import download_teacher
from worker.preparation.teachers import describe_teacher


@pytest.fixture
def hub(bert: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in bert.iterdir()}
    files |= {"README.md": b"# Tiny", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph"}
    with hub_server(Hub({"org/tiny": files})) as hub:
        yield hub


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "RETRY_AFTER_SECONDS", (0.01, 0.01))


def download(hub: Hub, folder: Path, repo: str = "org/tiny", revision: str = "main", token: str | None = None) -> str:
    return download_teacher(repo, revision, folder, endpoint=hub.url, token=token)


def refusal(hub: Hub, folder: Path, repo: str = "org/tiny", revision: str = "main") -> PreparationFailed:
    with pytest.raises(PreparationFailed) as caught:
        download(hub, folder, repo, revision)
    return caught.value


class TestDownloadTeacher:
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
