"""How much waits, as Prometheus asks for it: read from the database at a scrape, at most once in a few seconds.

A scrape never waits long for the database and never asks twice at once: where it does not answer in time the
numbers are left out, and `stillhouse_database_up` says 0.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from app.db.session import read_session
from app.repositories import backlog
from app.repositories.backlog import Backlog
from app.settings import Settings

CACHE_SECONDS = 5.0
# Less than the patience of the one who scrapes.
WAIT_SECONDS = 3.0

log = structlog.get_logger(__name__)


class BacklogCollector:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._asked: Future[Backlog] | None = None
        self._asked_at = 0.0

    def collect(self) -> Iterator[Metric]:
        found = self._read()
        up = GaugeMetricFamily("stillhouse_database_up", "1 when the database answered this scrape in time, else 0.")
        up.add_metric([], float(found is not None))
        yield up
        depth = GaugeMetricFamily(
            "stillhouse_queue_depth", "Work that is not over, by kind and status.", labels=["kind", "status"]
        )
        oldest = GaugeMetricFamily(
            "stillhouse_queue_oldest_age_seconds",
            "How long the oldest waiting work has waited; 0 where none waits.",
            labels=["kind"],
        )
        for (kind, status), count in found.depth.items() if found else ():
            depth.add_metric([kind, status], count)
        for kind, seconds in found.oldest_seconds.items() if found else ():
            oldest.add_metric([kind], seconds)
        yield depth
        yield oldest

    def _read(self) -> Backlog | None:
        with self._lock:
            is_old = time.monotonic() - self._asked_at > CACHE_SECONDS
            # One that is still under way is waited for again, not asked twice.
            if self._asked is None or (self._asked.done() and is_old):
                self._asked, self._asked_at = Future(), time.monotonic()
                # A daemon: a database that does not answer must not hold up the end of the process.
                threading.Thread(target=self._ask, args=(self._asked,), name="backlog", daemon=True).start()
            asked = self._asked
        try:
            return asked.result(timeout=WAIT_SECONDS)
        except NotInTime:
            return None
        except Exception as error:
            log.warning("backlog_not_read", error_type=type(error).__name__)
            return None

    def _ask(self, asked: "Future[Backlog]") -> None:
        try:
            with read_session(self._settings) as session:
                asked.set_result(backlog.read(session))
        except Exception as error:
            asked.set_exception(error)
