"""One run from beginning to end: undisturbed runs to compare with, cluster, clients, faults, calm, verdict."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tests.chaos import references
from tests.chaos.check import Violation, check, check_rest
from tests.chaos.clients import Api, Clients, Importer, Told
from tests.chaos.cluster import Cluster, run_folder, running_cluster, stop_parts
from tests.chaos.faults import KINDS, Faults
from tests.chaos.observe import Observed, observe, pending_cleanups
from tests.chaos.plan import SPECS, Intent, PlannedJob, Spec, plan_jobs
from tests.chaos.references import Materials, Reference
from tests.chaos.report import Progress
from tests.chaos.watch import Watch

KEPT = Path(__file__).parents[2] / "build" / "chaos"
# For everything to come to its end once nothing is killed any more, on a machine that others use too.
CALM_SECONDS = 600.0
SETTLE_SECONDS = 240.0
IDLE_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    seed: int
    # At least; more where kinds of faults are still to come. None: as many as the minutes allow.
    jobs: int | None
    # The longest that faults and new jobs go on.
    minutes: float
    specs: Sequence[Spec] = field(default_factory=lambda: SPECS)
    intents: Sequence[Intent] = tuple(Intent)
    kinds: Sequence[str] = tuple(KINDS)
    clients: int = 12
    workers: int = 3
    apis: int = 2
    # Between two faults, on average.
    every_seconds: float = 6.0
    # No more faults once each kind has come.
    is_each_once: bool = False
    # Between two datasets or teachers, on average; None: none but those of the jobs.
    imports_pause_seconds: float | None = 20.0
    # Environment variables of the service, other than in cluster.py.
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """What the jobs are made of, as the service knows it."""

    dataset: str
    teachers: dict[str, str]  # by the spec's kind of teacher
    accepted: list[tuple[str, str]]


@dataclass
class Outcome:
    faults: dict[str, int]
    # Kinds that the run was too short for.
    missing_faults: list[str]
    told: list[Told]
    observed: Observed
    violations: list[Violation]
    # Where the logs are; None where there was nothing to keep them for.
    logs: Path | None = None


def run(options: Options, console: Console, *, afterwards: Callable[["Run"], None] | None = None) -> Outcome:
    """Do all of it. `afterwards` is called after the verdict, with the cluster still up."""
    progress = Progress(console)
    with run_folder() as folder:
        progress.say("starting PostgreSQL, Redis, S3 and the service")
        materials = references.make_materials(folder / "materials")
        teacher_dirs = folder / "materials" / "teachers"
        with running_cluster(
            folder,
            teacher_dirs=teacher_dirs,
            workers=options.workers,
            apis=options.apis,
            changes=options.changes,
        ) as cluster:
            progress.say(f"the service answers after {cluster.start_seconds:.1f} s")
            progress.say(f"{len(options.specs)} undisturbed runs to compare with; known ones are in {KEPT}")
            watch = Watch(cluster, progress)
            with ThreadPoolExecutor(1) as beside:
                computed = beside.submit(
                    references.compute,
                    options.specs,
                    materials,
                    cluster.settings,
                    folder / "references",
                    KEPT / "references",
                )
                inputs = _import_inputs(options, cluster, materials, watch)
                expected = computed.result()
            this = Run(options, cluster, materials, expected, inputs, watch, progress)
            try:
                this.disturb()
                this.settle()
                observed = this.look()
                violations = this.judge(observed)
                if afterwards is not None:
                    afterwards(this)
                violations += this.stop()
            except Exception:
                progress.say(f"broken off; logs are in {_keep_logs(folder, options, this.faults.diary)}")
                raise
            logs = _keep_logs(folder, options, this.faults.diary) if violations else None
            return Outcome(dict(this.faults.counts), this.faults.missing, this.clients.told, observed, violations, logs)


class Run:
    """The disturbed part, and what is to be seen after it."""

    def __init__(
        self,
        options: Options,
        cluster: Cluster,
        materials: Materials,
        expected: dict[str, Reference],
        inputs: Inputs,
        watch: Watch,
        progress: Progress,
    ) -> None:
        self._options = options
        self.cluster = cluster
        self.clients = Clients(
            cluster.addresses,
            inputs.teachers,
            inputs.dataset,
            self._plan(),
            min(options.clients, options.jobs or options.clients),
        )
        self.faults = Faults(
            cluster,
            options.seed,
            kinds=options.kinds,
            every_seconds=options.every_seconds,
            is_each_once=options.is_each_once,
            doomed=self.clients.doomed,
        )
        self._materials = materials
        self._expected = expected
        self._accepted = [*inputs.accepted]
        self._watch = watch
        self._progress = progress

    def _plan(self) -> Iterator[PlannedJob]:
        for job in plan_jobs(self._options.seed, self._options.specs, self._options.intents):
            if self._options.jobs is not None and job.number > self._options.jobs and not self.faults.missing:
                return
            yield job

    def disturb(self) -> None:
        """Jobs and faults until all jobs are over or the minutes are, then calm until all jobs are over."""
        importer = None
        if self._options.imports_pause_seconds is not None:
            importer = _importer(self._options, self.cluster, self._materials, self._options.imports_pause_seconds)
            importer.start()
        self.clients.start()
        self._watch.faults = self.faults
        try:
            self._watch.tick_until(lambda: self.clients.are_done, self._options.minutes * 60.0)
            self._progress.say("no more faults")
            self.faults.stop()
            self.clients.stop_posting()
            if importer is not None:
                importer.stop()
            threads = [*self.clients.threads, *([importer] if importer else [])]
            self._watch.tick_until(lambda: not any(thread.is_alive() for thread in threads), CALM_SECONDS)
        finally:
            self.clients.give_up()
            if importer is not None:
                importer.give_up()
                self._accepted += importer.accepted
                self._watch.accidents += importer.wrong_answers

    def settle(self) -> None:
        """Wait until the sweep has nothing left to delete and the workers have put their things away."""
        self._progress.say("waiting for the sweep's delay")
        if not self._watch.tick_until(self.cluster.is_ready, SETTLE_SECONDS):
            self._watch.accidents.append(f"the APIs are not ready {SETTLE_SECONDS:g} s after the last fault")
        url = self.cluster.database_url
        if not self._watch.tick_until(lambda: pending_cleanups(url, within_seconds=3600.0) == 0, SETTLE_SECONDS):
            self._watch.accidents.append(f"the sweep has objects to look through for {SETTLE_SECONDS:g} s already")
        self._watch.tick_until(lambda: not (self._watch.engines or self.cluster.leftovers()), IDLE_SECONDS)

    def look(self) -> Observed:
        """Everything that is there now."""
        observed = observe(self.cluster)
        observed.processes = [str(seen) for seen in self.cluster.processes() if seen.engine_job]
        observed.folders = [str(path) for path in self.cluster.leftovers()]
        observed.accidents = [*self._watch.accidents, *self.cluster.accidents()]
        return observed

    def judge(self, observed: Observed) -> list[Violation]:
        return check(observed, self.clients.told, self._accepted, self._expected, self._materials)

    def stop(self) -> list[Violation]:
        """Stop the service; what is left of it then is a violation."""
        problems = stop_parts(self.cluster)
        servers = {program.pid for program in self.cluster.programs.values() if program.process is not None}
        # What PostgreSQL starts is its own affair.
        left = [seen for seen in self.cluster.processes() if not {seen.pid, seen.parent} & servers]
        return check_rest(
            Observed(
                processes=[str(seen) for seen in left],
                folders=[str(path) for path in self.cluster.leftovers()],
                accidents=problems,
            )
        )


def _import_inputs(options: Options, cluster: Cluster, materials: Materials, watch: Watch) -> Inputs:
    """Bring the inputs of the jobs in while nothing is disturbed."""
    importer = _importer(options, cluster, materials, 0.0)
    accepted = [("datasets", importer.upload_dataset())]
    for folder in materials.teacher_folders.values():
        importer.teacher_folder = str(folder)
        accepted.append(("teachers", importer.register_teacher()))
    api = Api(cluster.addresses, random.Random(options.seed), watch.accidents, threading.Event())
    watch.tick_until(lambda: all(api.get(f"/{kind}/{row}")["terminal"] for kind, row in accepted), CALM_SECONDS)
    api.close()
    importer.give_up()
    teachers = dict(zip(materials.teacher_folders, [row for _, row in accepted[1:]], strict=True))
    return Inputs(accepted[0][1], teachers, accepted)


def _importer(options: Options, cluster: Cluster, materials: Materials, pause_seconds: float) -> Importer:
    folder = next(iter(materials.teacher_folders.values()))
    return Importer(cluster.addresses, materials.uploads, str(folder), seed=options.seed, pause_seconds=pause_seconds)


def _keep_logs(folder: Path, options: Options, diary: Sequence[str]) -> Path:
    kept = KEPT / f"seed-{options.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copytree(folder / "logs", kept)
    (kept / "faults.txt").write_text("\n".join(diary) + "\n")
    return kept
