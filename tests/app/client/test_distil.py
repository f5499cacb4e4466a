"""What the commands do where no worker is needed. The whole of them: tests/e2e/test_distil.py."""

import math
from pathlib import Path
from typing import Any

import pytest

from app.client import jobs as jobs_of_client
from app.client.api import Api, Json
from app.client.arguments import DatasetArgument, TeacherArgument
from app.client.distil import run_distil, run_fetch
from app.db.session import write_session
from app.repositories import jobs
from app.settings import get_settings
from app.storage.store import ObjectStore
from tests.app.client.test_download import student_of
from tests.app.routes.helpers import failed_job, succeeded_job
from tests.fixtures.factories import add_dataset, add_job, add_teacher, claimed, ready_dataset, ready_teacher
from tests.fixtures.servers import free_port
from tests.fixtures.tiny_models import write_classifier

DEMO = DatasetArgument("dts_demo", {}, {})


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody answers."""
    return f"http://127.0.0.1:{free_port()}"


class TestPlaceOfTheStudent:
    """Harm: an earlier student is overwritten, or hours are spent on one that cannot be laid down."""

    def refused(self, output: Path, nowhere: str) -> bool:
        return run_fetch(job_id="job_01", url=nowhere, output=output) == 1

    def test_that_is_taken_is_told_before_anything_is_started(
        self, tmp_path: Path, nowhere: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "note.txt").write_text("mine")
        for taken in (tmp_path, tmp_path / "note.txt"):
            assert self.refused(taken, nowhere)
            assert f"{taken} is there already" in capsys.readouterr().out

    def test_that_cannot_be_is_told(self, tmp_path: Path, nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "note.txt").write_text("mine")
        assert self.refused(tmp_path / "note.txt" / "student", nowhere)
        assert f"The student cannot be put into {tmp_path / 'note.txt'}" in capsys.readouterr().out

    def test_is_not_the_working_folder(
        self, tmp_path: Path, nowhere: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert self.refused(Path(), nowhere)
        assert f"{tmp_path} is there already" in capsys.readouterr().out

    def test_may_be_an_empty_folder(self, tmp_path: Path, nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "student").mkdir()
        assert self.refused(tmp_path / "student", nowhere)
        assert f"No Stillhouse server answers at {nowhere}" in capsys.readouterr().out


class TestRunDistil:
    def distil(self, api: Api, output: Path, *, teacher: TeacherArgument) -> int:
        return run_distil(data=DEMO, teacher=teacher, body={}, url=api.address, output=output)

    def test_names_a_folder_without_a_model(self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.distil(api, tmp_path / "student", teacher=TeacherArgument(folder=tmp_path)) == 1
        assert f"{tmp_path} has no config.json" in capsys.readouterr().out

    def test_repeats_the_server_s_words(self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.distil(api, tmp_path / "student", teacher=TeacherArgument("tch_none")) == 1
        assert "There is no teacher 'tch_none'" in capsys.readouterr().out

    def test_has_the_server_refuse_what_it_does_not_know(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "student"
        data = DatasetArgument(add_dataset(), {}, {})
        ready_dataset(claimed(), warnings=["2 rows of train were left out."])
        teacher = TeacherArgument(add_teacher())
        ready_teacher(claimed())
        body = {"student": {"layers": 96}}
        assert run_distil(data=data, teacher=teacher, body=body, url=api.address, output=output) == 1
        said = capsys.readouterr().out
        assert "! 2 rows of train were left out." in said
        assert "student.layers" in said
        assert api.get("/jobs")["data"] == []
        assert not output.exists()

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ({"training": {"epochs": -1}}, "training.epochs is -1"),
            ({"method": {"type": "sagee"}}, 'method.type is "sagee"'),
            ({"method": {"type": "sage", "warmup_epochs": 9}}, "warmup_epochs"),
            ({"method": {"type": "taid", "lambda_start": 0, "lambda_end": 0}}, "method.lambda_end is 0"),
        ],
    )
    def test_sends_nothing_for_a_job_that_would_be_refused(
        self, body: Json, told: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Harm: gigabytes are sent and checked, and then the person learns of a slip of the pen."""
        write_classifier(tmp_path / "teacher", ["a"], ["no", "yes"])
        (tmp_path / "train.csv").write_text("text,label\na,no\nb,yes\n")
        data = DatasetArgument(None, {"train": tmp_path / "train.csv"}, {})
        teacher = TeacherArgument(folder=tmp_path / "teacher")
        assert run_distil(data=data, teacher=teacher, body=body, url=api.address, output=tmp_path / "student") == 1
        assert told in capsys.readouterr().out
        for path in ("/teachers", "/datasets", "/jobs"):
            assert api.get(path)["data"] == []

    def test_tunes_no_teacher_that_is_not_to_be_tuned(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = DatasetArgument(add_dataset(), {}, {})
        ready_dataset(claimed())
        teacher = TeacherArgument(add_teacher())
        ready_teacher(claimed(), num_labels=None)
        body: Json = {"teacher_tuning": None}
        assert run_distil(data=data, teacher=teacher, body=body, url=api.address, output=tmp_path / "student") == 1
        assert "it has no outputs to distil" in capsys.readouterr().out

    def test_waits_for_a_worker_that_is_long_in_coming(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: the command gives up, and leaves its upload behind, because another job takes the worker's time."""
        monkeypatch.setattr("app.client.distil._HINT_SECONDS", 0.0)
        data = DatasetArgument(add_dataset(), {}, {})
        claim = claimed()
        teacher = TeacherArgument(add_teacher())
        ready_teacher(claimed())
        wait_until_ready = Api.wait_until_ready

        def wait(client: Api, path: str, *, seconds: float) -> Json:
            if seconds == math.inf:  # the person has been told by now
                ready_dataset(claim)
            return wait_until_ready(client, path, seconds=seconds)

        monkeypatch.setattr(Api, "wait_until_ready", wait)
        body = {"student": {"layers": 96}}
        assert run_distil(data=data, teacher=teacher, body=body, url=api.address, output=tmp_path / "student") == 1
        said = capsys.readouterr().out
        assert f"/datasets/{data.known_id} is still pending" in said
        assert "student.layers" in said  # so far it came: the job itself is refused


class TestRunFetch:
    def fetch(self, api: Api, job_id: str, output: Path) -> int:
        return run_fetch(job_id=job_id, url=api.address, output=output)

    def test_says_why_there_is_no_student_and_the_way_out(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        job_id = failed_job()
        assert self.fetch(api, job_id, tmp_path / "student") == 1
        said = capsys.readouterr().out
        assert f"Job {job_id} failed: nan_loss: The loss was NaN." in said
        assert f"POST {api.address}/jobs/{job_id}/retry" in said
        assert "is not lost" not in said

    def test_says_what_a_paused_job_waits_for_and_the_way_back(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        job_id = add_job()
        with write_session() as session:
            jobs.request_pause(session, job_id)
        monkeypatch.setattr("app.client.jobs._pause", interrupted)
        output = tmp_path / "my [student]"
        assert self.fetch(api, job_id, output) == 130
        said = capsys.readouterr().out
        assert f"POST {api.address}/jobs/{job_id}/resume" in said
        assert f"stillhouse fetch {job_id} --url {api.address} --output '{output}'" in said

    @pytest.mark.usefixtures("folder_object_store")
    def test_leaves_what_came_into_the_folder_meanwhile_and_keeps_the_student(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = student_of(tmp_path / "made.tar.gz").read_bytes()
        job_id = succeeded_job({"student.tar.gz": archive})
        output = tmp_path / "student"
        download = jobs_of_client.download

        def download_while_something_comes(*arguments: Any, **named: Any) -> None:
            output.mkdir()
            (output / "mine").touch()
            download(*arguments, **named)

        monkeypatch.setattr(jobs_of_client, "download", download_while_something_comes)
        assert self.fetch(api, job_id, output) == 1
        assert [path.name for path in output.iterdir()] == ["mine"]
        (kept,) = tmp_path.glob("student.*.tar.gz")
        assert kept.read_bytes() == archive
        said = capsys.readouterr().out
        assert f"The student is in {kept}" in said
        assert "is not lost" not in said  # no way back into the same folder

    @pytest.mark.usefixtures("folder_object_store")
    def test_ends_where_the_student_is_lost(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: it asks the home's server for ever, and never says what that says."""
        job_id = succeeded_job({"student.tar.gz": b"x"})
        ObjectStore.from_settings(get_settings()).delete_prefix(f"jobs/{job_id}")
        monkeypatch.setattr("app.client.download.PAUSE_SECONDS", 0.0)
        monkeypatch.setattr("app.client.server.find_or_start", lambda *_, **__: (api.address, None))
        assert run_fetch(job_id=job_id, url=None, output=tmp_path / "student") == 1
        assert "Restore it from a backup" in capsys.readouterr().out

    def test_leaves_a_link_and_a_folder_behind_it(
        self, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "student").symlink_to("real")
        assert self.fetch(api, failed_job(), tmp_path / "student") == 1
        assert "failed: nan_loss" in capsys.readouterr().out  # it may go there
        (tmp_path / "real" / "mine").touch()
        assert self.fetch(api, failed_job(), tmp_path / "student") == 1
        assert "is there already" in capsys.readouterr().out
