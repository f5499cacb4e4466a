import dataclasses
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import text

from app.client.api import Api
from app.db.session import write_session
from app.demo import story
from app.demo.materials import shipped
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port


class TestRun:
    def test_says_that_no_server_answers_at_the_given_address(
        self,
        home: Path,  # noqa: ARG002
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        assert story.run(url=url, port=None, output=None) == 1
        assert f"No Stillhouse server answers at {url}" in capsys.readouterr().out

    def test_says_what_keeps_the_server_from_its_work(self, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
        """Harm: "no server answers", and the one that is to be started says that there is one already."""
        with write_session() as session:
            session.execute(text("DELETE FROM alembic_version"))
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

    # The whole of it, on a tiny model: tests/e2e/test_embedded.py.


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

    def test_is_sent_the_teacher(self, api: Api, tmp_path: Path) -> None:
        """Harm: the demo, tried against a cluster, ends with an excuse."""
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name).write_text("{}")
        teacher = story._register_teacher(api, dataclasses.replace(shipped(), teacher_folder=tmp_path))
        assert teacher["name"] == "all-MiniLM-L6-v2"
        assert teacher["source"]["type"] == "upload"
        assert len(teacher["source"]["files"]) == 3
