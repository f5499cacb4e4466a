"""One job through a whole cluster, PostgreSQL, Redis and S3 between its processes: as its user gets the student, and as
an operator follows it, by its metrics, its log lines and its trace."""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml

from app.db import migrate
from app.db.session import dispose_engines
from app.settings import Settings
from tests.e2e import student, tiny
from tests.e2e.system import START_SECONDS, Client, Json, Process, environment, is_ready, wait_for
from tests.fixtures.collector import Collector, trace_collector
from tests.fixtures.database import new_postgres_database
from tests.fixtures.exposition import Scrape
from tests.fixtures.servers import can_connect, free_port

# One running system serves the module, so its tests stay in one process.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("seen-from-outside")]

REQUEST_ID = "operator-7.b"
RULES = Path(__file__).parents[2] / "k8s" / "alerts" / "prometheus-rules.yaml"


@dataclass
class Seen:
    """A cluster, told by URLs in its environment, in which one job has succeeded, posted under REQUEST_ID."""

    processes: dict[str, Process]
    addresses: dict[str, str]
    collector: Collector
    client: Client
    job: Json

    def lines(self, service: str) -> list[dict[str, Any]]:
        """The log of a process: every line of it is one JSON object."""
        text = self.processes[service].log.read_text()
        return [json.loads(line) for line in text.splitlines()]

    def scrape(self, service: str) -> Scrape:
        return Scrape.of(self.addresses[service])


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    teacher_folder: Path,
    postgres: str,
    redis_url: str,
    s3: dict[str, str],
) -> Iterator[Seen]:
    home = tmp_path_factory.mktemp("seen")
    database_url = new_postgres_database(postgres, "stillhouse_seen")
    migrate.upgrade(Settings(home=home, database_url=database_url))
    dispose_engines()
    ports = {"api": free_port(), "worker": free_port(), "scheduler": free_port()}
    addresses = {service: f"http://127.0.0.1:{port}" for service, port in ports.items()}
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(trace_collector())
        shared = {
            "STILLHOUSE_DATABASE_URL": database_url,
            "STILLHOUSE_BROKER_URL": redis_url.removesuffix("/0") + "/6",
            "STILLHOUSE_OBJECT_STORE_URL": "s3://stillhouse/seen",
            "STILLHOUSE_OTLP_ENDPOINT": collector.address,
            **s3,
        }
        commands = {"api": ["api", "--port", str(ports["api"])], "worker": ["worker"], "scheduler": ["scheduler"]}
        processes = {}
        for service, command in commands.items():
            more = {} if service == "api" else {"STILLHOUSE_METRICS_PORT": str(ports[service])}
            # Different homes: nothing may pass from one to the other through a folder.
            env = environment(home / service, teacher_dirs=teacher_folder.parent, **shared, **more)
            log = home / f"{service}.log"
            processes[service] = Process([sys.executable, "-P", "-m", "app.cli", *command], env, log)
            stack.callback(processes[service].end)
        wait_for(lambda: is_ready(addresses["api"]), START_SECONDS, "readiness", process=processes["api"])
        for service in ("worker", "scheduler"):
            wait_for(
                lambda port=ports[service]: can_connect(port), START_SECONDS, "metrics", process=processes[service]
            )
        client = Client(addresses["api"])
        stack.callback(client.http.close)
        dataset, teacher = client.upload_dataset(), client.register_teacher(teacher_folder)
        client.wait_until_ready("datasets", dataset, process=processes["worker"])
        client.wait_until_ready("teachers", teacher, process=processes["worker"])
        body = {**tiny.JOB, "teacher": teacher, "dataset": dataset}
        response = client.http.post("/jobs", json=body, headers={"X-Request-ID": REQUEST_ID})
        assert response.status_code == httpx.codes.ACCEPTED, response.text
        job = client.wait_until_succeeded(response.json()["id"], process=processes["worker"])
        # The worker says so a moment after the row does.
        wait_for(
            lambda: Scrape.of(addresses["worker"]).value("stillhouse_attempt_duration_seconds_count", kind="job"),
            30.0,
            "end of the attempt in the metrics",
            process=processes["worker"],
        )
        yield Seen(processes, addresses, collector, client, job)


class TestPostToDownload:
    def test_student_loads_with_plain_transformers_and_scores_as_reported(self, seen: Seen, tmp_path: Path) -> None:
        manifest = student.unpack(student.download(seen.client.http, seen.job["id"]), tmp_path)
        result = seen.job["result"]
        assert manifest["content_sha256"] == result["content_sha256"]
        assert student.accuracy(tmp_path, "test") == pytest.approx(result["student"]["test"]["accuracy"])


class TestLogs:
    def test_request_s_id_is_found_from_the_api_to_the_engine(self, seen: Seen) -> None:
        def found(service: str, event: str) -> list[dict[str, Any]]:
            return [
                line for line in seen.lines(service) if line["event"] == event and line.get("request_id") == REQUEST_ID
            ]

        (submitted,) = found("api", "job_submitted")
        (request,) = found("api", "request")
        assert submitted["job_id"] == seen.job["id"]
        assert (request["method"], request["path"], request["status"]) == ("POST", "/jobs", 202)
        for event in ("work_begun", "engine_started", "checkpoint_stored", "engine_ended", "work_ended"):
            for line in found("worker", event):
                assert (line["job_id"], line["attempt"]) == (seen.job["id"], 1)
            assert found("worker", event), event
        said = found("worker", "engine_output")
        assert {(line["job_id"], line["attempt"]) for line in said} == {(seen.job["id"], 1)}
        # The engine's own words, under the ids that it was given.
        (first,) = [line["line"] for line in said if line["line"].startswith("engine started")]
        assert f"request_id={REQUEST_ID}" in first
        assert f"job_id={seen.job['id']}" in first

    def test_lines_of_the_worker_have_the_attempt_while_it_has_a_job_in_hand(self, seen: Seen) -> None:
        lines = seen.lines("worker")
        begun, ended = (
            next(n for n, line in enumerate(lines) if line["event"] == event and line.get("kind") == "job")
            for event in ("work_begun", "work_ended")
        )
        bare = [line for line in lines[begun : ended + 1] if "attempt" not in line]
        assert bare == []

    def test_every_line_names_its_service_and_there_is_no_stack_trace(self, seen: Seen) -> None:
        for service in seen.processes:
            lines = seen.lines(service)
            assert lines
            assert {line["service"] for line in lines} == {service}
            assert [line for line in lines if "exception" in line] == []


class TestMetrics:
    def test_worker_tells_how_long_each_phase_took_and_how_it_ended(self, seen: Seen) -> None:
        scrape = seen.scrape("worker")
        assert scrape.value("stillhouse_attempt_duration_seconds_count", kind="job", outcome="succeeded") == 1
        assert scrape.value("stillhouse_work_ended_total", kind="job", outcome="succeeded") == 1
        assert scrape.value("stillhouse_work_ended_total", kind="dataset", outcome="ready") == 1
        phases = {
            sample.labels["phase"]: sample.value
            for sample in scrape.samples("stillhouse_job_phase_duration_seconds_sum", outcome="succeeded")
        }
        assert {"fetching", "teacher_tuning", "training", "baseline", "exporting", "storing"} <= set(phases)
        whole = scrape.value("stillhouse_attempt_duration_seconds_sum", kind="job")
        assert 0.5 * whole < sum(phases.values()) <= whole
        assert scrape.value("stillhouse_engine_exits_total", exit="0") == 1
        assert scrape.value("stillhouse_checkpoint_upload_duration_seconds_count", outcome="stored") > 0
        assert scrape.value("stillhouse_checkpoint_upload_bytes_total") > 1000
        assert scrape.value("stillhouse_work_dir_free_bytes") > 0
        assert scrape.value("stillhouse_object_store_request_duration_seconds_count", operation="put") > 0
        assert scrape.value("stillhouse_worker_busy") == 0
        assert scrape.value("stillhouse_engine_memory_bytes") == 0

    def test_scheduler_tells_what_waits_and_when_it_swept(self, seen: Seen) -> None:
        scrape = seen.scrape("scheduler")
        assert scrape.samples("stillhouse_queue_depth", kind="job", status="queued")[0].value == 0
        assert scrape.value("stillhouse_sweep_last_success_timestamp_seconds") > 1e9
        assert scrape.value("stillhouse_sweep_duration_seconds_count", outcome="done") > 0
        assert scrape.value("stillhouse_database_up") == 1

    def test_api_tells_of_its_requests(self, seen: Seen) -> None:
        scrape = seen.scrape("api")
        place = {"method": "POST", "route": "/jobs", "status": "202"}
        assert scrape.value("stillhouse_http_request_duration_seconds_count", **place) == 1
        assert scrape.value("stillhouse_wakes_total", outcome="sent") > 0
        assert scrape.samples("stillhouse_event_listeners")

    def test_no_series_is_named_after_a_job(self, seen: Seen) -> None:
        for service in seen.processes:
            assert "job_0" not in seen.scrape(service).text

    def test_each_is_shown_by_the_process_that_it_is_about(self, seen: Seen) -> None:
        shown = {service: set(seen.scrape(service).families) for service in seen.processes}
        assert not {"stillhouse_queue_depth", "stillhouse_worker_busy"} & shown["api"]
        assert not {"stillhouse_queue_depth", "stillhouse_event_listeners"} & shown["worker"]
        assert not {"stillhouse_worker_busy", "stillhouse_event_listeners"} & shown["scheduler"]


class TestAlerts:
    def test_ask_for_metrics_and_labels_that_there_are(self, seen: Seen) -> None:
        """Harm: an alert on a name that nobody exports is silent for ever."""
        scrapes = [seen.scrape(service) for service in seen.processes]
        (group,) = yaml.safe_load(RULES.read_text())["spec"]["groups"]
        assert len(group["rules"]) >= 8
        asked = [selector for rule in group["rules"] for selector in selectors(promql_parser.parse(rule["expr"]))]
        assert len(asked) > len(group["rules"])
        for selector in asked:
            assert any(selector.name in scrape.names() for scrape in scrapes), selector.name
            for matcher in selector.matchers.matchers:
                names = {
                    name for scrape in scrapes for sample in scrape.samples(selector.name) for name in sample.labels
                }
                # Without a sample so far there is nothing to look at.
                assert matcher.name in names or not names, (selector.name, matcher.name)

    def test_say_what_is_wrong_and_what_to_do(self) -> None:
        (group,) = yaml.safe_load(RULES.read_text())["spec"]["groups"]
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}
            assert rule["annotations"]["summary"].strip()
            assert rule["annotations"]["description"].strip()
        names = [rule["alert"] for rule in group["rules"]]
        assert len(names) == len(set(names))


class TestTrace:
    def test_shows_one_job_from_its_request_to_its_student(self, seen: Seen) -> None:
        job_id = seen.job["id"]
        job = seen.collector.wait_for(lambda span: span.attributes.get("stillhouse.job_id") == job_id)
        request = seen.collector.wait_for(lambda span: span.name == "POST /jobs")
        assert (request.service, job.service) == ("stillhouse-api", "stillhouse-worker")
        assert job.trace_id == request.trace_id
        assert job.parent_id == request.span_id
        assert job.attributes["stillhouse.outcome"] == "succeeded"
        assert job.attributes["stillhouse.request_id"] == REQUEST_ID
        children = [span for span in seen.collector.spans if span.parent_id == job.span_id]
        assert {span.trace_id for span in children} == {job.trace_id}
        names = [span.name for span in sorted(children, key=lambda span: span.began)]
        assert names[0] == "fetching"
        assert {"teacher_tuning", "training", "exporting", "storing", "store checkpoint"} <= set(names)
        phases = sorted((span for span in children if span.name != "store checkpoint"), key=lambda span: span.began)
        for earlier, later in itertools.pairwise(phases):
            assert earlier.ended == pytest.approx(later.began, abs=1e-3)
        rounds = [span.attributes["stillhouse.round"] for span in phases if span.name == "training"]
        assert rounds == sorted(rounds)
        assert len(set(rounds)) > 1

    def test_is_named_in_the_log(self, seen: Seen) -> None:
        job = seen.collector.wait_for(lambda span: span.attributes.get("stillhouse.job_id") == seen.job["id"])
        for service in ("api", "worker"):
            lines = [line for line in seen.lines(service) if line.get("request_id") == REQUEST_ID]
            assert {line["trace_id"] for line in lines} == {job.trace_id}


def selectors(expression: Any) -> list[Any]:
    """Every selector of series in a parsed query."""
    if isinstance(expression, promql_parser.VectorSelector):
        return [expression]
    if isinstance(expression, promql_parser.MatrixSelector):
        return selectors(expression.vector_selector)
    if isinstance(expression, promql_parser.Call):
        return [found for argument in expression.args for found in selectors(argument)]
    if isinstance(expression, promql_parser.BinaryExpr):
        return selectors(expression.lhs) + selectors(expression.rhs)
    if isinstance(expression, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr):
        return selectors(expression.expr)
    assert isinstance(expression, promql_parser.NumberLiteral | promql_parser.StringLiteral), type(expression)
    return []
