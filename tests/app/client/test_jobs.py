from pathlib import Path

import httpx
import pytest

from app.client.api import Api, ClientError
from app.client.jobs import upload_teacher


class TestUploadTeacher:
    def test_sends_the_files_of_a_model_and_no_others(self, api: Api, tmp_path: Path) -> None:
        """Harm: somebody's texts go along, or an optimizer's gigabytes; or all is refused for the sake of a note."""
        of_model = {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
        beside = {"README.md", "optimizer.pt", "optimizer.safetensors", "train.json", "my notes.txt", ".cache.json"}
        for name in (*of_model, *beside, "model-00001-of-00002.safetensors"):
            (tmp_path / name).write_text("{}")
        (tmp_path / "requirements.txt").touch()
        (tmp_path / "added_tokens.json").mkdir()
        teacher = upload_teacher(api, tmp_path, "m" * 300)
        assert (teacher["name"], teacher["status"], teacher["source"]["type"]) == ("m" * 200, "pending", "upload")
        assert {file["path"] for file in teacher["source"]["files"]} == of_model

    def test_says_what_a_folder_lacks(self, api: Api, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "pytorch_model.bin").write_text("{}")
        with pytest.raises(ClientError, match=f"{tmp_path} has its weights only as pickles"):
            upload_teacher(api, tmp_path, "mine")
        assert api.get("/teachers")["data"] == []

    def test_says_that_the_server_is_too_old(self, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name).write_text("{}")
        api = Api("http://stillhouse.example")
        transport = httpx.MockTransport(lambda _: httpx.Response(405, json={"detail": "Method Not Allowed"}))
        api.http = httpx.Client(base_url=api.address, transport=transport)
        with pytest.raises(ClientError, match="of an older release"):
            upload_teacher(api, tmp_path, "mine")
