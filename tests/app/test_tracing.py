import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app import tracing
from app.main import create_app
from app.settings import get_settings
from tests.fixtures.collector import Collector, trace_collector
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with trace_collector() as collector:
        yield collector


@pytest.fixture(autouse=True)
def _stop() -> Iterator[None]:
    yield
    tracing.stop_tracing()


@pytest.mark.usefixtures("home")
class TestWithoutAnEndpoint:
    def test_a_worker_imports_nothing_of_the_library(self) -> None:
        assert imported("worker.celery_app", "opentelemetry") == []

    def test_the_api_imports_no_sdk_and_no_exporter(self) -> None:
        """The web framework brings the library's interface, which does nothing by itself."""
        assert imported("app.main", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto") == []


def imported(module: str, *names: str) -> list[str]:
    """What of `names` is imported after `module` was, and after spans were made without an endpoint."""
    program = (
        f"import sys, {module}; from app import tracing; from app.settings import get_settings; "
        "tracing.configure_tracing(get_settings(), service='worker')\n"
        "with tracing.span('job') as span: span.set({'a': 1}); tracing.begin('phase').end(); "
        "assert (tracing.current_traceparent(), span.trace_id) == (None, None)\n"
        f"print(*[name for name in sys.modules if name.startswith({names!r})])"
    )
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


class TestSpans:
    def test_arrive_nested_with_their_attributes(self, change_settings: ChangeSettings, collector: Collector) -> None:
        tracing.configure_tracing(change_settings(otlp_endpoint=collector.address), service="worker")
        with tracing.span("job", parent=CALLER, kind="consumer", attributes={"attempt": 2, "none": None}):
            tracing.begin("training", at=100.5).end(at=160.25)
            carried = tracing.current_traceparent()
        tracing.stop_tracing()
        job = collector.wait_for(lambda span: span.name == "job")
        phase = collector.wait_for(lambda span: span.name == "training")
        assert (job.trace_id, job.parent_id) == (CALLER.split("-")[1], CALLER.split("-")[2])
        assert (phase.trace_id, phase.parent_id) == (job.trace_id, job.span_id)
        assert (phase.began, phase.ended) == (100.5, 160.25)
        assert (job.service, job.attributes) == ("stillhouse-worker", {"attempt": 2})
        assert carried == f"00-{job.trace_id}-{job.span_id}-01"

    @pytest.mark.parametrize("broken", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
    def test_begin_a_trace_of_their_own_where_the_parent_is_none(
        self, change_settings: ChangeSettings, collector: Collector, broken: str
    ) -> None:
        tracing.configure_tracing(change_settings(otlp_endpoint=collector.address), service="worker")
        with tracing.span("job", parent=broken):
            pass
        tracing.stop_tracing()
        assert collector.wait_for(lambda span: span.name == "job").parent_id == ""

    def test_cost_the_end_of_a_process_moments_where_no_collector_answers(
        self, change_settings: ChangeSettings
    ) -> None:
        tracing.configure_tracing(change_settings(otlp_endpoint=f"http://127.0.0.1:{free_port()}"), service="worker")
        with tracing.span("job"):
            pass
        began = time.monotonic()
        tracing.stop_tracing()
        assert time.monotonic() - began < 15


@pytest.mark.usefixtures("sqlite_database")
class TestRequests:
    def test_go_on_with_the_caller_s_trace_under_the_route_s_name(
        self, change_settings: ChangeSettings, collector: Collector
    ) -> None:
        change_settings(otlp_endpoint=collector.address)
        with TestClient(create_app(get_settings())) as client:
            client.get("/jobs/job_x", headers={"traceparent": CALLER})
            client.get("/readyz")
        span = collector.wait_for(lambda span: span.name == "GET /jobs/{job_id}")
        assert (span.trace_id, span.parent_id) == (CALLER.split("-")[1], CALLER.split("-")[2])
        assert span.service == "stillhouse-api"
        assert span.attributes["http.route"] == "/jobs/{job_id}"
        assert span.attributes["http.response.status_code"] == 404
        assert [other.name for other in collector.spans] == [span.name]
