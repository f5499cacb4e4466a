from pathlib import Path

import pytest

from app.client.api import Api, ClientError
from app.client.jobs import upload_teacher


class TestUploadTeacher:
    def test_sends_the_files_of_a_model_and_no_others(self, api: Api, tmp_path: Path) -> None:
        """Harm: gigabytes of an optimiser's state go along, or the whole is refused for the sake of a README."""
        of_model = {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
        for name in (*of_model, "README.md", "optimizer.pt", "training_args.bin", ".cache.json"):
            (tmp_path / name).write_text("{}")
        (tmp_path / "checkpoint-500.json").mkdir()
        teacher = upload_teacher(api, tmp_path, "mine")
        assert (teacher["name"], teacher["status"], teacher["source"]["type"]) == ("mine", "pending", "upload")
        assert {file["path"] for file in teacher["source"]["files"]} == of_model

    def test_names_a_folder_that_holds_no_model(self, api: Api, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match=f"{tmp_path} has no model"):
            upload_teacher(api, tmp_path, "mine")
        assert api.get("/teachers")["data"] == []
