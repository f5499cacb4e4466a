import threading
from pathlib import Path

import pytest

from app.client.api import Api
from app.client.arguments import DatasetArgument, TeacherArgument
from app.client.distil import run_distil, run_fetch
from tests.fixtures.factories import add_dataset, add_teacher, claimed, ready_dataset, ready_teacher
from tests.fixtures.servers import free_port

DEMO = DatasetArgument("dts_demo", {}, {})


class TestRunDistil:
    """What ends it before a worker is needed. The whole of it: tests/e2e/test_distil.py."""

    def distil(self, api: Api, output: Path, *, teacher: TeacherArgument) -> int:
        return run_distil(data=DEMO, teacher=teacher, body={}, url=api.address, output=output)

    def test_starts_nothing_where_the_student_has_no_place(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Harm: an earlier student is overwritten, or hours are spent on one that cannot be laid down."""
        (tmp_path / "note.txt").write_text("mine")
        url = f"http://127.0.0.1:{free_port()}"
        teacher = TeacherArgument("tch_demo", None)
        assert run_distil(data=DEMO, teacher=teacher, body={}, url=url, output=tmp_path) == 1
        assert f"{tmp_path} is there already" in capsys.readouterr().out
        assert run_fetch(job_id="job_01", url=url, output=tmp_path / "note.txt") == 1
        assert "note.txt is there already" in capsys.readouterr().out

    def test_says_that_no_server_answers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        assert run_fetch(job_id="job_01", url=url, output=tmp_path / "student") == 1
        assert f"No Stillhouse server answers at {url}" in capsys.readouterr().out

    def test_says_how_a_server_may_read_the_teacher(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        teacher = TeacherArgument(None, {"type": "folder", "path": str(tmp_path)})
        assert self.distil(api, tmp_path / "student", teacher=teacher) == 1
        said = capsys.readouterr().out
        assert f"cannot read the teacher from {tmp_path}" in said
        assert "STILLHOUSE_TEACHER_DIRS" in said
        assert "A server that this command starts itself may read it" in said

    @pytest.mark.parametrize("teacher", ["tch_none", "dts_none"])
    def test_repeats_the_server_s_words(
        self, teacher: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.distil(api, tmp_path / "student", teacher=TeacherArgument(teacher, None)) == 1
        assert teacher in capsys.readouterr().out

    def test_has_the_server_refuse_what_it_does_not_know(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "student"
        data = DatasetArgument(add_dataset(), {}, {})
        ready_dataset(claimed(), warnings=["2 rows of train were left out."])
        teacher = TeacherArgument(add_teacher(), None)
        ready_teacher(claimed())
        body = {"training": {"epochs": -1}}
        assert run_distil(data=data, teacher=teacher, body=body, url=api.address, output=output) == 1
        said = capsys.readouterr().out
        assert "! 2 rows of train were left out." in said
        assert "training.epochs" in said
        assert api.get("/jobs")["data"] == []
        assert not output.exists()

    def test_waits_for_a_worker_that_is_long_in_coming(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: the command gives up, and leaves its upload behind, because another job takes the worker's time."""
        monkeypatch.setattr("app.client.distil._HINT_SECONDS", 0.0)
        data = DatasetArgument(add_dataset(), {}, {})
        claim = claimed()
        teacher = TeacherArgument(add_teacher(), None)
        ready_teacher(claimed())
        later = threading.Timer(0.5, ready_dataset, [claim])
        later.start()
        body = {"student": {"layers": 99}}
        assert run_distil(data=data, teacher=teacher, body=body, url=api.address, output=tmp_path / "student") == 1
        later.join()
        said = capsys.readouterr().out
        assert f"/datasets/{data.known_id} is still pending" in said
        assert "student.layers" in said  # so far it came: the job itself is refused
