"""The faults: drawn from the seed, begun when their time comes, ended when their time is over.

`tick` is called from the run's main loop and returns at once. Each kind comes once before any comes twice. Some
wait, once drawn, for an instant to hit: a checkpoint that is being stored, a student that is being stored.
"""

import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import psycopg
import redis

from app.queue import QUEUE
from tests.chaos.cluster import Cluster
from tests.chaos.processes import Program, Seen, send
from tests.chaos.servers import FAST, IMMEDIATE

# A message that comes this much after it was sent is late.
LATE_SECONDS = 8.0
MESSAGES_KEPT = 300
# How long a fault waits for its instant.
TRAP_SECONDS = 40.0
# Enough for a job to end elsewhere.
LONG_RUN_SECONDS = 45.0
# Comes first: once a projection is stored, no job makes it again.
IN_PROJECTION = "engine killed in the projection"
KILLED_AT_SIGHT = "engine killed at sight"

Target = TypeVar("Target", Program, Seen)


@dataclass
class Fault:
    """One that has begun: in words, how long it lasts, and what undoes it then.

    One with a trap has not: it begins when the trap, asked again and again, has hit something.
    """

    note: str
    seconds: float = 0.0
    undo: Callable[[], None] | None = None
    trap: "Callable[[], Fault | None] | None" = None
    kind: str = ""
    ends_at: float = 0.0


class Faults:
    """Begins and ends faults; `counts` says how many of each kind there were."""

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        *,
        kinds: Sequence[str],
        every_seconds: float,
        is_each_once: bool,
        doomed: Collection[str],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.diary: list[str] = []
        self._cluster = cluster
        self._chance = random.Random(f"faults {seed}")
        self._every_seconds = every_seconds
        self._is_each_once = is_each_once
        self._doomed = doomed
        self._kinds = sorted(self._chance.sample([*kinds], len(kinds)), key=lambda kind: kind != IN_PROJECTION)
        self._active: list[Fault] = []
        self._started_at = time.monotonic()
        self._next_at = self._started_at + self._chance.uniform(1.0, 3.0)
        self.is_over = False
        self._broker = redis.Redis.from_url(cluster.redis_url, socket_timeout=0.3, socket_connect_timeout=0.3)
        self._database: psycopg.Connection | None = None
        self._messages: deque[tuple[float, bytes]] = deque(maxlen=MESSAGES_KEPT)
        self._known: set[bytes] = set()
        self._engines: list[Seen] = []
        self._training: set[str] = set()
        self._spared: set[str] = set()

    @property
    def missing(self) -> list[str]:
        """Kinds that have not come yet, and still can."""
        return [kind for kind in self._kinds if not self.counts[kind] and kind != IN_PROJECTION]

    def tick(
        self, engines: Sequence[Seen], training: Collection[str], spared: Collection[str], slowness: float
    ) -> None:
        """`engines` run now; `training` are the jobs whose engine has got beyond its start; what works on those
        that are `spared` is not hit. On a machine of some `slowness` faults come less often."""
        self._engines, self._training, self._spared = [*engines], {*training}, {*spared}
        # Also when all else is calm: their clients wait for it.
        self._kill_doomed()
        if self.is_over:
            return
        self._listen_to_broker()
        self._spring_traps()
        now = time.monotonic()
        for fault in [fault for fault in self._active if now >= fault.ends_at]:
            self._end(fault)
        if now < self._next_at:
            return
        begun = self._begin()
        if begun is None:
            self._next_at = now + 0.5  # nothing to hit just now
            return
        self._enter(begun)
        self._next_at = now + slowness * self._every_seconds * self._chance.uniform(0.3, 1.7)

    def stop(self) -> None:
        """No more faults; those under way end now."""
        self.is_over = True
        for fault in [*self._active]:
            self._end(fault)

    def _begin(self) -> Fault | None:
        """Begin one of the kinds that have not come yet, else any, by weight; None when none is possible now."""
        drawn: list[str] = []
        if not self._is_each_once:
            drawn = self._chance.choices(self._kinds, [KINDS[kind][1] for kind in self._kinds], k=len(self._kinds))
        waiting = {fault.kind for fault in self._active if fault.trap is not None}
        for kind in [*(kind for kind in self._kinds if not self.counts[kind]), *drawn]:
            fault = None if kind in waiting else KINDS[kind][0](self)
            if fault is not None:
                fault.kind = kind
                return fault
        return None

    def _enter(self, fault: Fault) -> None:
        fault.ends_at = time.monotonic() + fault.seconds
        self._active.append(fault)
        if fault.trap is None:
            self.counts[fault.kind] += 1
            self._say(f"{fault.kind}: {fault.note}")

    def _spring_traps(self) -> None:
        for waiting in [fault for fault in self._active if fault.trap is not None]:
            assert waiting.trap is not None
            begun = waiting.trap()
            if begun is not None:
                self._active.remove(waiting)
                begun.kind = waiting.kind
                self._enter(begun)

    def _end(self, fault: Fault) -> None:
        self._active.remove(fault)
        if fault.undo is not None:
            fault.undo()
            self._say(f"{fault.kind}: over")

    def _say(self, what: str) -> None:
        self.diary.append(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._started_at:7.1f} s  {what}")

    # -- parts of the service -----------------------------------------------------------------------

    def kill_worker(self) -> Fault | None:
        worker = self._busy_worker()
        if worker is None:
            return None
        disk = "its disk"
        if self._chance.random() < 0.4:
            self._cluster.take_disk(worker)
            disk = "an empty disk"
        return self._stop(worker, signal.SIGKILL, 0.2, 4.0, f"comes back with {disk}")

    def stop_worker(self) -> Fault | None:
        worker = self._busy_worker()
        return None if worker is None else self._stop(worker, signal.SIGTERM, 0.2, 2.0)

    def kill_engine(self) -> Fault | None:
        engines = [engine for engine in self._engines if engine.engine_job not in self._spared]
        engine = self._choose([engine for engine in engines if engine.engine_job in self._training], engines)
        if engine is None or not send(engine.pid, signal.SIGKILL):
            return None
        return Fault(f"{engine.engine_job}, pid {engine.pid}")

    def kill_scheduler(self) -> Fault | None:
        return self._stop(self._cluster.programs["scheduler"], signal.SIGKILL, 0.5, 6.0)

    def kill_api(self) -> Fault | None:
        return self._stop(self._chance.choice(self._cluster.apis), signal.SIGKILL, 0.2, 5.0)

    def freeze_worker(self, *, with_engine: bool = False) -> Fault | None:
        worker = self._busy_worker()
        if worker is None:
            return None
        seconds = self._cluster.settings.lease_seconds + self._chance.uniform(2.0, 7.0)
        return self._freeze(worker, seconds, with_engine=with_engine)

    def _freeze(self, worker: Program, seconds: float, *, with_engine: bool = False) -> Fault | None:
        if sum(other.is_frozen for other in self._cluster.workers) > len(self._cluster.workers) - 2:
            return None
        family = _descendants(worker.pid, self._cluster.processes()) if with_engine else []
        for pid in family:
            send(pid, signal.SIGSTOP)
        worker.freeze()
        frozen_pid = worker.pid

        def thaw() -> None:
            for pid in family:
                send(pid, signal.SIGCONT)
            if worker.process is not None and worker.pid == frozen_pid:
                worker.thaw()

        return Fault(f"{worker.name} for {seconds:.1f} s", seconds, thaw)

    def freeze_worker_and_engine(self) -> Fault | None:
        return self.freeze_worker(with_engine=True)

    # -- at an instant ------------------------------------------------------------------------------

    def kill_worker_storing_checkpoint(self) -> Fault | None:
        return self._trap(lambda: self._hit("*/*/outbox/*-checkpoint-*", self._kill))

    def kill_worker_storing_student(self) -> Fault | None:
        return self._trap(lambda: self._hit("*/*/artifact.tar.gz", self._kill))

    def kill_engine_in_projection(self) -> Fault | None:
        return self._trap(lambda: self._hit("*/*/projection-*", self._kill_engine_of))

    def kill_worker_after_checkpoint(self) -> Fault | None:
        """As soon as the row is there: what the run had to say before that must be there too."""
        known = self._recorded_checkpoints()

        def trap() -> Fault | None:
            for job_id, step in self._recorded_checkpoints() - known:
                for worker in self._up():
                    is_its = any(seen.engine_job == job_id and seen.parent == worker.pid for seen in self._engines)
                    fault = self._kill(worker, f"{job_id} at step {step}") if is_its else None
                    if fault is not None:
                        return fault
            return None

        return self._trap(trap)

    def freeze_worker_storing_student(self) -> Fault | None:
        """For so long that its job is over elsewhere and swept: what it still writes when it wakes is nobody's."""
        settings = self._cluster.settings
        seconds = settings.lease_seconds + settings.cleanup_delay_seconds + LONG_RUN_SECONDS
        return self._trap(
            lambda: self._hit("*/*/outbox/*-checkpoint-*", lambda worker, _: self._freeze(worker, seconds))
        )

    def _trap(self, spring: Callable[[], Fault | None]) -> Fault:
        return Fault("", TRAP_SECONDS, trap=spring)

    def _hit(self, pattern: str, strike: Callable[[Program, str], Fault | None]) -> Fault | None:
        """Strike a worker in whose work folder there is something of this pattern just now."""
        for worker in self._up():
            work = Path(worker.environment["STILLHOUSE_HOME"]) / "work"
            for path in work.glob(pattern):
                job_id = path.relative_to(work).parts[0]
                fault = strike(worker, job_id)
                if fault is not None:
                    return fault
        return None

    def _kill(self, worker: Program, note: str) -> Fault | None:
        return self._stop(worker, signal.SIGKILL, 0.2, 4.0, note)

    def _kill_engine_of(self, worker: Program, job_id: str) -> Fault | None:
        engines = [seen for seen in self._engines if seen.engine_job == job_id and seen.parent == worker.pid]
        return Fault(f"{worker.name}, {job_id}") if any(send(seen.pid, signal.SIGKILL) for seen in engines) else None

    def _recorded_checkpoints(self) -> set[tuple[str, int]]:
        with suppress(psycopg.Error):
            if self._database is None or self._database.closed:
                self._database = psycopg.connect(self._cluster.database_url, connect_timeout=2, autocommit=True)
            return {(row[0], row[1]) for row in self._database.execute("SELECT job_id, step FROM checkpoints")}
        return set()

    # -- servers ------------------------------------------------------------------------------------

    def lose_redis(self) -> Fault | None:
        return self._stop(self._cluster.programs["redis"], signal.SIGKILL, 0.3, 6.0)

    def restart_postgres(self) -> Fault | None:
        return self._stop(self._cluster.programs["postgres"], FAST, 0.2, 4.0)

    def crash_postgres(self) -> Fault | None:
        return self._stop(self._cluster.programs["postgres"], IMMEDIATE, 0.2, 4.0)

    def kill_s3(self) -> Fault | None:
        return self._stop(self._cluster.programs["s3"], signal.SIGKILL, 0.2, 4.0)

    # -- the broker's messages ----------------------------------------------------------------------

    def double_messages(self) -> Fault | None:
        return self._push([message for _, message in self._messages][-3:], self._chance.randint(2, 6))

    def delay_messages(self) -> Fault | None:
        old = time.monotonic() - LATE_SECONDS
        return self._push([message for seen_at, message in self._messages if seen_at < old][:3], 1)

    def _listen_to_broker(self) -> None:
        """Keep copies of what the service itself has sent."""
        with suppress(redis.RedisError):
            for message in cast(list[bytes], self._broker.lrange(QUEUE, 0, -1)):
                if message not in self._known:
                    self._known.add(message)
                    self._messages.append((time.monotonic(), message))

    def _push(self, messages: Sequence[bytes], copies: int) -> Fault | None:
        if not messages:
            return None
        try:
            for message in messages:
                self._broker.lpush(QUEUE, *[message] * copies)
        except redis.RedisError:
            return None
        return Fault(f"{len(messages)} of them, {copies} times each")

    # -- how ----------------------------------------------------------------------------------------

    def _stop(
        self, program: Program, number: signal.Signals, shortest: float, longest: float, note: str = ""
    ) -> Fault | None:
        if not program.is_up:
            return None
        pause_seconds = self._chance.uniform(shortest, longest)
        program.stop(number, pause_seconds=pause_seconds)
        return Fault(f"{program.name}, away for {pause_seconds:.1f} s{note and f', {note}'}")

    def _kill_doomed(self) -> None:
        for engine in self._engines:
            if engine.engine_job in self._doomed and send(engine.pid, signal.SIGKILL):
                self.counts[KILLED_AT_SIGHT] += 1

    def _up(self) -> list[Program]:
        """The workers that may be hit."""
        spared = {engine.parent for engine in self._engines if engine.engine_job in self._spared}
        return [worker for worker in self._cluster.workers if worker.is_up and worker.pid not in spared]

    def _busy_worker(self) -> Program | None:
        """A running worker."""
        up = self._up()
        training = {engine.parent for engine in self._engines if engine.engine_job in self._training}
        return self._choose([worker for worker in up if worker.pid in training], up)

    def _choose(self, training: Sequence[Target], all_of_them: Sequence[Target]) -> Target | None:
        """Mostly one whose engine has got beyond its start: there is something to lose, and jobs get somewhere."""
        group = training if self._chance.random() < 0.75 else all_of_them
        return self._chance.choice(group) if group else None


def _descendants(pid: int, processes: Sequence[Seen]) -> list[int]:
    found: list[int] = []
    wanted = [pid]
    while wanted:
        parent = wanted.pop()
        children = [seen.pid for seen in processes if seen.parent == parent]
        found += children
        wanted += children
    return found


# Kind -> how it begins, and how often it comes beside the others.
KINDS: Mapping[str, tuple[Callable[[Faults], Fault | None], float]] = {
    "worker killed": (Faults.kill_worker, 4),
    "worker told to stop": (Faults.stop_worker, 1.5),
    "engine killed": (Faults.kill_engine, 3),
    "worker frozen past its lease": (Faults.freeze_worker, 1.5),
    "worker and engine frozen past the lease": (Faults.freeze_worker_and_engine, 1.5),
    "worker killed storing a checkpoint": (Faults.kill_worker_storing_checkpoint, 1.5),
    "worker killed storing the student": (Faults.kill_worker_storing_student, 1.5),
    "worker killed after a checkpoint": (Faults.kill_worker_after_checkpoint, 1.5),
    IN_PROJECTION: (Faults.kill_engine_in_projection, 0.5),
    "worker frozen past the sweep's delay": (Faults.freeze_worker_storing_student, 0.3),
    "scheduler killed": (Faults.kill_scheduler, 1.5),
    "API killed": (Faults.kill_api, 2),
    "Redis killed, its data lost": (Faults.lose_redis, 1.5),
    "messages delivered twice": (Faults.double_messages, 1),
    "messages delivered late": (Faults.delay_messages, 1),
    "PostgreSQL restarted": (Faults.restart_postgres, 1),
    "PostgreSQL restarted, immediate shutdown": (Faults.crash_postgres, 1),
    "S3 killed": (Faults.kill_s3, 1),
}
