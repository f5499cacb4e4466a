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

    def answers(self, *answers: int | type[httpx.TransportError], patience_seconds: float = 60.0) -> Api:
        """A server that gives these statuses, or fails so, one after the other."""
        api = Api("http://stillhouse.example", patience_seconds=patience_seconds)
        left = iter(answers)

        def answer(request: httpx.Request) -> httpx.Response:
            request.read()
            given = next(left)
            if isinstance(given, int):
                return httpx.Response(given, json={"id": "1"})
            raise given("broken off")

        api.http = httpx.Client(base_url=api.address, transport=httpx.MockTransport(answer))
        return api

    def test_is_asked_again(self) -> None:
        assert self.answers(503, 429, 502, 504, 200).get("/jobs/1") == {"id": "1"}

    def test_is_asked_again_to_take_a_job_that_it_may_have_taken(self) -> None:
        assert self.answers(503, 202).post("/jobs", {}, idempotency_key="key") == {"id": "1"}

    def test_is_not_asked_again_for_what_would_be_done_twice(self) -> None:
        with pytest.raises(NoAnswer, match="answered 503"):
            self.answers(503, 202).post("/teachers", {})

    def test_does_not_get_an_upload_twice(self, train: Path) -> None:
        """Harm: one that was received although its answer got lost stands there twice."""
        with pytest.raises(NoAnswer, match="broken off"):
            self.answers(httpx.ReadError, 202).upload("/datasets", {}, [("train", train)])

    def test_gets_an_upload_that_it_had_no_chance_to_receive(self, train: Path) -> None:
        assert self.answers(httpx.ConnectError, 202).upload("/datasets", {}, [("train", train)]) == {"id": "1"}

    def test_is_looked_for_where_it_may_have_gone(self, api: Api) -> None:
        """Harm: of two commands that share the server that one of them started, the other falls with it."""
        moved = Api(f"http://127.0.0.1:{free_port()}", patience_seconds=0.0, find_again=lambda: api.address)
        assert moved.find("/teachers/tch_none") is None
        assert moved.address == api.address

    def test_is_not_looked_for_where_it_is_and_says_no(self, api: Api) -> None:
        """Harm: a command that asks for ever for what the server has lost."""
        here = Api(api.address, find_again=lambda: pytest.fail("it is there"))
        with pytest.raises(NoAnswer, match="the reason"):
            here.go_after(NoAnswer("the reason"))

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
