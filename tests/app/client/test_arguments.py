import json
from pathlib import Path
from typing import Any

import pytest

from app.client.api import ClientError
from app.client.arguments import read_dataset_argument, read_job_body, read_teacher_argument


class TestReadDatasetArgument:
    def test_takes_the_files_that_are_named(self, tmp_path: Path) -> None:
        train, test = tmp_path / "train.csv", tmp_path / "test.csv"
        for path in (train, test):
            path.write_text("text,label\n")
        read = read_dataset_argument(
            str(train), {"test": test, "validation": None}, {"label_column": "intent", "text_column": None}
        )
        assert read.known_id is None
        assert read.files == {"train": train, "test": test}
        assert read.columns == {"label_column": "intent"}

    def test_takes_the_id_of_one_that_the_server_has(self) -> None:
        read = read_dataset_argument("dts_demo", {"test": None}, {"text_column": None})
        assert (read.known_id, read.files, read.columns) == ("dts_demo", {}, {})

    def test_refuses_a_file_beside_an_id(self, tmp_path: Path) -> None:
        """Harm: a test file that was given is not what the student is measured on."""
        with pytest.raises(ClientError, match=r"dts_demo .* --test, --label-column cannot be added"):
            read_dataset_argument("dts_demo", {"test": tmp_path / "test.csv"}, {"label_column": "intent"})

    @pytest.mark.parametrize(("name", "what"), [("none.csv", "is not there"), ("", "is a folder")])
    def test_names_the_file_that_cannot_be_one(self, name: str, what: str, tmp_path: Path) -> None:
        train = tmp_path / "train.csv"
        train.write_text("text,label\n")
        with pytest.raises(ClientError, match=f"the file of the validation rows, {what}"):
            read_dataset_argument(str(train), {"validation": tmp_path / name}, {})


class TestReadTeacherArgument:
    def test_takes_a_folder_that_looks_like_an_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "job_best").mkdir()
        monkeypatch.chdir(tmp_path)
        assert read_teacher_argument("job_best", is_far=False).folder == Path("job_best")

    def test_takes_ids(self) -> None:
        assert read_teacher_argument("tch_demo", is_far=False).known_id == "tch_demo"
        assert read_teacher_argument("job_01", is_far=False).source == {"type": "job", "job": "job_01"}

    def test_takes_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "org" / "name").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        # Also where its name could be one of the hub.
        read = read_teacher_argument("org/name", is_far=False)
        assert (read.folder, read.source) == (Path("org/name"), None)

    def test_takes_a_folder_of_another_machine_where_there_is_none_here(self, tmp_path: Path) -> None:
        source = {"type": "folder", "path": "/srv/teachers/intents"}
        assert read_teacher_argument("/srv/teachers/intents", is_far=True).source == source
        assert read_teacher_argument(str(tmp_path), is_far=True).folder == tmp_path
        with pytest.raises(ClientError, match="there is no such folder"):
            read_teacher_argument("/srv/teachers/intents", is_far=False)

    @pytest.mark.parametrize(
        ("text", "source"),
        [
            ("bert-base-uncased", {"repo": "bert-base-uncased"}),
            ("org/name", {"repo": "org/name"}),
            ("org/name@v1/2", {"repo": "org/name", "revision": "v1/2"}),
        ],
    )
    def test_takes_a_repository_of_the_hub(self, text: str, source: dict[str, str]) -> None:
        read = read_teacher_argument(text, is_far=False)
        assert read.source == {"type": "hub", **source}
        assert read.folder is None

    @pytest.mark.parametrize(
        "text", ["./model", "../model", "~/model", "~nobody-of-here/model", "a/b/c", "org/name@", "", "two words"]
    )
    def test_refuses_what_is_none_of_these(self, text: str) -> None:
        """Harm: a path with a slip of the pen is asked of the hub."""
        with pytest.raises(ClientError, match="there is no such folder"):
            read_teacher_argument(text, is_far=False)

    def test_refuses_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "model").write_text("")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ClientError, match="there is no such folder"):
            read_teacher_argument("model", is_far=False)


class TestReadJobBody:
    def read(self, file: Path | None = None, *assignments: str, **options: Any) -> dict[str, Any]:
        return read_job_body(file, **({"layers": None, "method": None} | options), assignments=assignments)

    def test_is_empty_where_nothing_is_said(self) -> None:
        assert self.read() == {}

    def test_has_the_file_then_the_options_then_the_fields(self, tmp_path: Path) -> None:
        file = tmp_path / "job.json"
        told = {"student": {"layers": 4, "word_vectors": "frozen"}, "method": {"type": "sage", "rounds": 2}}
        file.write_text(json.dumps({**told, "training": {"seed": 3, "epochs": 2}}))
        assert self.read(file, "training.epochs=1.5", "method.alpha=0.5", layers=2, method="kd") == {
            "student": {"layers": 2, "word_vectors": "frozen"},
            "method": {"type": "kd", "alpha": 0.5},  # what the file says is of another method
            "training": {"seed": 3, "epochs": 1.5},
        }

    @pytest.mark.parametrize(
        ("assignment", "body"),
        [
            ("training.precision=bf16", {"training": {"precision": "bf16"}}),
            ("teacher_tuning={}", {"teacher_tuning": {}}),
            ('baselines=["kd"]', {"baselines": ["kd"]}),
            ("metadata.a=b=c", {"metadata": {"a": "b=c"}}),
            ("method.early_stopping=false", {"method": {"early_stopping": False}}),
        ],
    )
    def test_reads_a_value_as_json_or_as_the_word_that_it_is(self, assignment: str, body: dict[str, Any]) -> None:
        assert self.read(None, assignment) == body

    def test_takes_no_number_that_json_has_not(self, tmp_path: Path) -> None:
        """Harm: it is sent to nobody: the client itself falls over it, after the upload."""
        assert self.read(None, "training.epochs=NaN") == {"training": {"epochs": "NaN"}}
        (tmp_path / "job.json").write_text('{"training": {"epochs": Infinity}}')
        with pytest.raises(ClientError, match="is no JSON: Infinity"):
            self.read(tmp_path / "job.json")

    def test_refuses_a_student_that_has_no_fields(self) -> None:
        with pytest.raises(ClientError, match=r"student is 3; .* --set student\.layers=3"):
            self.read(None, "student=3")
        assert self.read(None, "student=null") == {"student": None}

    def test_refuses_a_folder_in_the_place_of_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ClientError, match="cannot be read: Is a directory"):
            self.read(tmp_path)

    @pytest.mark.parametrize("assignment", ["training.epochs", "=2", ""])
    def test_refuses_what_sets_nothing(self, assignment: str) -> None:
        with pytest.raises(ClientError, match="give a field and its value"):
            self.read(None, assignment)

    def test_refuses_a_field_of_what_has_none(self) -> None:
        with pytest.raises(ClientError, match=r"--set student\.layers\.x=1: student\.layers is no object"):
            self.read(None, "student.layers.x=1", layers=3)

    @pytest.mark.parametrize(
        ("content", "said"), [("{", "is no JSON"), ("[]", "holds no JSON object"), (None, "No such file")]
    )
    def test_refuses_a_file_that_holds_no_body(self, content: str | None, said: str, tmp_path: Path) -> None:
        file = tmp_path / "job.json"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ClientError, match=said):
            self.read(file)
