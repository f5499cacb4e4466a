"""The main loop's part: looks after the processes, sees what runs where, lets the faults begin and end."""

import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from tests.chaos.cluster import Cluster
from tests.chaos.faults import Faults
from tests.chaos.observe import statuses
from tests.chaos.processes import Seen
from tests.chaos.report import Progress

TICK_SECONDS = 0.05
LOOK_SECONDS = 0.5
# An engine whose worker is gone reads the end of a pipe, on a machine that has no time.
ORPHAN_SECONDS = 30.0
SPARED_ATTEMPTS = 3
# On two cores that do nothing else: until the parts answer, and from an engine's start to the end of its
# preparations with three at a time.
USUAL_CLUSTER_SECONDS = 8.0
USUAL_ENGINE_SECONDS = 9.0


class Watch:
    """`tick` returns soon. It starts processes, which die with the thread that starts them: call it from one."""

    def __init__(self, cluster: Cluster, progress: Progress) -> None:
        self.accidents: list[str] = []
        self.engines: list[Seen] = []
        self.faults: Faults | None = None
        self._cluster = cluster
        self._progress = progress
        self._orphans: dict[int, float] = {}
        self._statuses: dict[str, str] = {}
        # Jobs whose engine has got beyond its start.
        self._training: set[str] = set()
        # Jobs that were hit so often before they got anywhere that the service would soon give them up.
        self._spared: set[str] = set()
        self._next_look = 0.0
        # Engine -> when it was seen first; forgotten once it trains.
        self._starting: dict[int, float] = {}
        self._start_seconds = USUAL_ENGINE_SECONDS * cluster.start_seconds / USUAL_CLUSTER_SECONDS

    @property
    def slowness(self) -> float:
        """How much longer than usual engines take to start: where others use the machine too."""
        return max(1.0, self._start_seconds / USUAL_ENGINE_SECONDS)

    def tick(self) -> None:
        time.sleep(TICK_SECONDS)
        self._cluster.look_after()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._look_around()
        if self.faults is not None:
            self.faults.tick(self.engines, self._training, self._spared, self.slowness)
            last = self.faults.diary[-1] if self.faults.diary and not self.faults.is_over else ""
            self._progress.tick(self._statuses, len(self.engines), self.faults.counts, last)

    def tick_until(self, is_over: Callable[[], bool], seconds: float) -> bool:
        """Tick until it is over; False when that takes longer."""
        deadline = time.monotonic() + seconds
        while not is_over():
            if time.monotonic() > deadline:
                return False
            self.tick()
        return True

    def _look_around(self) -> None:
        seen = self._cluster.processes()
        self.engines = [process for process in seen if process.engine_job]
        self._watch_for_orphans({process.pid for process in seen})
        with suppress(psycopg.Error):  # PostgreSQL is away just now
            rows = statuses(self._cluster.database_url)
            self._statuses = {job_id: row["status"] for job_id, row in rows.items()}
            self._training = {job_id for job_id, row in rows.items() if row["phase"] not in (None, "preparing")}
            most = self._cluster.settings.max_attempts - SPARED_ATTEMPTS
            self._spared = {job_id for job_id, row in rows.items() if row["fruitless_attempts"] >= most}
        self._measure_starts()

    def _measure_starts(self) -> None:
        now = time.monotonic()
        for engine in self.engines:
            seen_at = self._starting.setdefault(engine.pid, now)
            # The row's phase may be that of an attempt before for a moment.
            if engine.engine_job in self._training and 2.0 < now - seen_at < float("inf"):
                self._start_seconds += (now - seen_at - self._start_seconds) / 4
                self._starting[engine.pid] = float("-inf")

    def _watch_for_orphans(self, alive: set[int]) -> None:
        now = time.monotonic()
        orphans = {engine.pid: engine for engine in self.engines if engine.parent not in alive}
        self._orphans = {pid: self._orphans.get(pid, now) for pid in orphans}
        for pid, since in [*self._orphans.items()]:
            if now - since > ORPHAN_SECONDS:
                self.accidents.append(f"outlived its worker by {ORPHAN_SECONDS:g} s: {orphans[pid]}")
                self._orphans[pid] = float("inf")  # said once
