import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.session import write_session
from app.demo import api as api_module
from app.demo import story
from app.demo.api import Api, DemoError
from app.demo.materials import shipped
from app.demo.screen import make_console
from app.embedded import ApiThread, bind
from app.repositories import imports, leases
from app.settings import get_settings
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port


@pytest.fixture
def api(sqlite_database: str) -> Iterator[Api]:  # noqa: ARG001
    """A client of the real API over an empty database; no worker runs."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        server = ApiThread(get_settings(), listener)
        server.start()
        while not server.is_serving:
            server.check()
            time.sleep(0.01)
        with Api(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            yield client
        server.ask_to_stop()
        server.wait_until_stopped(lambda: False)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("text,label\none,a\ntwo,b\n")
    return path


class TestApi:
    def test_knows_when_the_server_is_ready(self, api: Api) -> None:
        assert api.what_is_missing() == ""

    def test_says_what_keeps_the_server_from_its_work(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        """Harm: "no server answers", and the one that is to be started says that there is one already."""
        with write_session() as session:
            session.execute(text("DELETE FROM alembic_version"))
        assert "migrations" in str(api.what_is_missing())
        assert story.run(url=api.address, port=None, output=None) == 1
        assert f"The server at {api.address} is not ready: GET /readyz answered 503" in capsys.readouterr().out

    def test_an_interrupted_demo_tells_how_the_job_of_a_server_that_runs_on_is_stopped(
        self, api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(story, "tell", interrupted)
        assert story.run(url=api.address, port=None, output=None) == 130
        assert f"goes on at {api.address}; POST {api.address}/jobs/ID/cancel stops it" in capsys.readouterr().out

    def test_finds_nothing_where_nothing_is(self, api: Api) -> None:
        assert api.find("/teachers/tch_none") is None

    def test_repeats_the_server_s_own_words(self, api: Api) -> None:
        with pytest.raises(DemoError, match=r"POST /teachers answered 422: .*stranger"):
            api.post("/teachers", {"stranger": 1})

    def test_uploads_files(self, api: Api, train: Path) -> None:
        dataset = api.upload("/datasets", {"name": "mine"}, {"train": train})
        assert dataset["name"] == "mine"
        assert dataset["status"] == "pending"

    def test_tells_why_a_dataset_failed(self, api: Api, train: Path) -> None:
        dataset = api.upload("/datasets", {}, {"train": train})
        with write_session() as session:
            claim = leases.claim_next(session, worker_name="w", lease_seconds=30.0)
            assert claim is not None
            imports.mark_failed(session, claim, code="dataset_one_class", message="Only one label.")
        with pytest.raises(DemoError, match=r"is failed: Only one label\."):
            api.wait_until_ready(f"/datasets/{dataset['id']}")

    def test_gives_up_on_a_dataset_that_nobody_checks(self, api: Api, train: Path) -> None:
        dataset = api.upload("/datasets", {}, {"train": train})
        with pytest.raises(DemoError, match=r"Is a worker running, or are all busy\?"):
            api.wait_until_ready(f"/datasets/{dataset['id']}", seconds=0.0)


class TestServerWithoutTheTeacher:
    """Harm: a cluster that was found by chance, or named, gets one more dataset from each try, and a hint that helps
    nobody."""

    @pytest.fixture
    def talked_to(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The addresses of the servers that a story was told to; there it ends at once."""
        addresses: list[str] = []
        monkeypatch.setattr(story, "tell", lambda _, api, *__: addresses.append(api.address))
        return addresses

    def test_is_passed_over_for_one_of_the_demo_s_own_where_nobody_named_it(
        self,
        api: Api,
        talked_to: list[str],
        change_settings: ChangeSettings,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        change_settings(home=tmp_path / "other", port=api.http.base_url.port)
        assert story.run(url=None, port=None, output=None) == 0
        assert len(talked_to) == 1
        assert talked_to != [api.address]
        assert f"{api.address} lacks the demo's teacher, so another is started" in capsys.readouterr().out

    @pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (200, b"[]"), (401, b"who are you?")])
    def test_is_passed_over_whatever_else_it_may_be(
        self,
        status: int,
        body: bytes,
        talked_to: list[str],
        change_settings: ChangeSettings,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Harm: a traceback, or another service's error, over a server that nobody named."""

        class Anything(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/readyz" else status)
                self.end_headers()
                self.wfile.write(body)

        with HTTPServer(("127.0.0.1", 0), Anything) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                change_settings(home=tmp_path / "other", port=server.server_port)
                assert story.run(url=None, port=None, output=None) == 0
            finally:
                server.shutdown()
                thread.join()
        assert len(talked_to) == 1
        assert talked_to != [f"http://127.0.0.1:{server.server_port}"]
        assert "lacks the demo's teacher, so another is started" in capsys.readouterr().out

    def test_is_talked_to_where_it_was_named(self, api: Api, talked_to: list[str]) -> None:
        assert story.run(url=api.address, port=None, output=None) == 0
        assert story.run(url=None, port=api.http.base_url.port, output=None) == 0
        assert talked_to == [api.address] * 2

    def test_is_left_as_it_was_and_the_way_out_is_said(self, api: Api, tmp_path: Path) -> None:
        materials = dataclasses.replace(shipped(), teacher_folder=tmp_path)
        said = rf"{re.escape(api.address)} lacks .*tch_demo.*{re.escape(str(tmp_path))}.*without --url and --port"
        with pytest.raises(DemoError, match=said):
            story.tell(make_console(), api, materials, tmp_path)
        assert api.get("/datasets")["data"] == []


class TestApiWithoutServer:
    @pytest.fixture
    def nobody(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
        monkeypatch.setattr(api_module, "PATIENCE_SECONDS", 0.0)
        with Api(f"http://127.0.0.1:{free_port()}") as client:
            yield client

    def test_is_not_ready(self, nobody: Api) -> None:
        assert nobody.what_is_missing() is None

    def test_names_the_address_that_does_not_answer(self, nobody: Api) -> None:
        with pytest.raises(DemoError, match=f"No answer from {nobody.address}"):
            nobody.get("/jobs")

    def test_does_not_repeat_an_upload(self, nobody: Api, train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An upload that was received although its answer got lost would stand there twice."""
        monkeypatch.setattr(api_module, "PATIENCE_SECONDS", 60.0)
        started_at = time.monotonic()
        with pytest.raises(DemoError):
            nobody.upload("/datasets", {}, {"train": train})
        assert time.monotonic() - started_at < 30.0
