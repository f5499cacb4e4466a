import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from app.client import api as api_module
from app.client.api import Api, ClientError, NoAnswer
from app.db.session import write_session
from app.repositories import imports, leases
from tests.fixtures.servers import free_port


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("text,label\none,a\ntwo,b\n")
    return path


class TestApi:
    def test_knows_when_the_server_is_ready(self, api: Api) -> None:
        assert api.what_is_missing() == ""

    def test_says_what_keeps_the_server_from_its_work(self, api: Api) -> None:
        with write_session() as session:
            session.execute(text("DELETE FROM alembic_version"))
        assert "migrations" in str(api.what_is_missing())

    def test_finds_nothing_where_nothing_is(self, api: Api) -> None:
        assert api.find("/teachers/tch_none") is None

    def test_repeats_the_server_s_own_words(self, api: Api) -> None:
        with pytest.raises(ClientError, match=r"POST /teachers answered 422: .*stranger"):
            api.post("/teachers", {"stranger": 1})

    def test_uploads_files(self, api: Api, train: Path) -> None:
        dataset = api.upload("/datasets", {"name": "mine"}, {"train": train}.items())
        assert dataset["name"] == "mine"
        assert dataset["status"] == "pending"

    def test_tells_why_a_dataset_failed(self, api: Api, train: Path) -> None:
        dataset = api.upload("/datasets", {}, {"train": train}.items())
        with write_session() as session:
            claim = leases.claim_next(session, worker_name="w", lease_seconds=30.0)
            assert claim is not None
            imports.mark_failed(session, claim, code="dataset_one_class", message="Only one label.")
        with pytest.raises(ClientError, match=r"is failed: Only one label\."):
            api.wait_until_ready(f"/datasets/{dataset['id']}")

    def test_gives_up_on_a_dataset_that_nobody_checks(self, api: Api, train: Path) -> None:
        dataset = api.upload("/datasets", {}, {"train": train}.items())
        with pytest.raises(ClientError, match=r"Is a worker running, or are all busy\?"):
            api.wait_until_ready(f"/datasets/{dataset['id']}", seconds=0.0)


class TestServerThatComesAndGoes:
    """Harm: one restart behind the ingress, in hours of polling, and the command is gone."""

    @pytest.fixture(autouse=True)
    def _no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_module, "PAUSE_SECONDS", 0.0)

    def answers(self, *statuses: int, patience_seconds: float = 60.0) -> Api:
        api = Api("http://stillhouse.example", patience_seconds=patience_seconds)
        left = iter(statuses)
        api.http = httpx.Client(
            base_url=api.address, transport=httpx.MockTransport(lambda _: httpx.Response(next(left), json={"id": "1"}))
        )
        return api

    def test_is_asked_again(self) -> None:
        assert self.answers(503, 429, 502, 504, 200).get("/jobs/1") == {"id": "1"}

    def test_is_asked_again_to_take_a_job_that_it_may_have_taken(self) -> None:
        assert self.answers(503, 202).post("/jobs", {}, idempotency_key="key") == {"id": "1"}

    def test_is_not_asked_again_for_what_would_be_done_twice(self) -> None:
        with pytest.raises(NoAnswer, match="answered 503"):
            self.answers(503, 202).post("/teachers", {})

    def test_is_given_up_in_the_end(self) -> None:
        with pytest.raises(NoAnswer, match="answered 503"):
            self.answers(*[503] * 1000, patience_seconds=0.0).get("/jobs/1")


class TestProxies:
    def test_do_not_stand_before_a_server_of_this_machine(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: in a company's network the command's own server is never ready."""
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        with Api(api.address) as client:
            assert client.what_is_missing() == ""

    def test_of_no_known_kind_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1")
        with pytest.raises(ClientError, match="ALL_PROXY"):
            Api("http://stillhouse.example")


class TestApiWithoutServer:
    @pytest.fixture
    def nobody(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
        monkeypatch.setattr(api_module, "PATIENCE_SECONDS", 0.0)
        with Api(f"http://127.0.0.1:{free_port()}") as client:
            yield client

    def test_is_not_ready(self, nobody: Api) -> None:
        assert nobody.what_is_missing() is None

    def test_names_the_address_that_does_not_answer(self, nobody: Api) -> None:
        with pytest.raises(ClientError, match=f"No answer from {nobody.address}"):
            nobody.get("/jobs")

    def test_does_not_repeat_an_upload(self, nobody: Api, train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An upload that was received although its answer got lost would stand there twice."""
        monkeypatch.setattr(api_module, "PATIENCE_SECONDS", 60.0)
        started_at = time.monotonic()
        with pytest.raises(ClientError):
            nobody.upload("/datasets", {}, {"train": train}.items())
        assert time.monotonic() - started_at < 30.0
