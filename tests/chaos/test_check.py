"""The checker complains about each thing that it is there for; of a healthy state it says nothing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.check import Kind, Violation, check, expected_ends
from tests.chaos.clients import Told
from tests.chaos.observe import ARCHIVE, Download, Observed
from tests.chaos.plan import ENCODER, Intent, Moment, PlannedJob, Spec
from tests.chaos.references import Materials, Reference

JOB = "job_1"
TOKEN = "tok1"
PREFIX = f"jobs/{JOB}/{TOKEN}/artifact"
NAMES = ["manifest.json", "model.safetensors", ARCHIVE]
CACHED = "cache/teacher_outputs/k/logits.safetensors.l0"
LOSS = {"series": "student/train_loss", "step": 10, "value": 0.5}
CHECKPOINT = {"object_prefix": "jobs/job_1/t/checkpoints/1", "files": []}
SPEC = Spec("kd", ENCODER, {"teacher_tuning": {"seed": 7}})
REFERENCE = Reference(
    content_sha256="c0",
    files={"model.safetensors": "m0"},
    names=["manifest.json", "model.safetensors"],
    metrics={"student/train_loss 10": 0.5, "teacher_tuning/train_loss 10": 1.5},
)
MATERIALS = Materials(
    uploads={},
    teacher_folders={},
    dataset_folder=Path(),
    dataset_sha256="d0",
    dataset_rows={"train": 2},
    teacher_sha256={ENCODER: "t0"},
)


class State:
    """A run with one job that succeeded, one cached entry, one dataset and one teacher, all as it should be."""

    def __init__(self, intent: Intent = Intent.RUN) -> None:
        plan = PlannedJob(number=1, key="chaos-1-1", spec=SPEC, intent=intent, moment=Moment.POSTED, seed=1)
        self.told = [Told(plan, job_ids={JOB}, ends=["succeeded"], archive_sha256="a0", is_done=True)]
        self.imported = [("datasets", "dts_1"), ("teachers", "tch_1")]
        self.observed = Observed(
            jobs={
                JOB: {
                    "id": JOB,
                    "status": "succeeded",
                    "metadata": {"chaos": "chaos-1-1"},
                    "run_token": None,
                    "lease_expires_at": None,
                    "error_code": None,
                    "error_message": None,
                    "event_sequence": 3,
                    "attempt": 1,
                    "result": {"content_sha256": "c0"},
                }
            },
            events={JOB: [status(1, "queued"), status(2, "running"), status(3, "succeeded")]},
            metrics={JOB: [{**LOSS}, {"series": "teacher_tuning/train_loss", "step": 10, "value": 1.5}]},
            attempts={JOB: [{"number": 1, "outcome": "succeeded", "finished_at": "now"}]},
            artifacts={JOB: [artifact(name) for name in NAMES]},
            datasets={
                "dts_1": {
                    "status": "ready",
                    "error_code": None,
                    "sha256": "d0",
                    "rows": {"train": 2},
                    "object_prefix": "datasets/dts_1/t/prepared",
                    "files": [{"path": "train.parquet", "size_bytes": 5}],
                    "uploads": [{"object_key": "datasets/dts_1/uploads/train.csv", "size_bytes": 4}],
                }
            },
            teachers={
                "tch_1": {
                    "status": "ready",
                    "sha256": "t0",
                    "object_prefix": "teachers/tch_1/t",
                    "files": [{"path": "config.json", "size_bytes": 6}],
                }
            },
            objects={
                f"{PREFIX}/manifest.json": 7,
                f"{PREFIX}/model.safetensors": 7,
                f"{PREFIX}/{ARCHIVE}": 7,
                "datasets/dts_1/t/prepared/train.parquet": 5,
                "datasets/dts_1/uploads/train.csv": 4,
                "teachers/tch_1/t/config.json": 6,
                "cache/teacher_outputs/k/index.json": 60,
                CACHED: 8,
            },
            cache_indices={
                "cache/teacher_outputs/k/index.json": [
                    {"path": "logits.safetensors", "object": "logits.safetensors.l0", "size_bytes": 8}
                ],
            },
            downloads={
                JOB: Download(
                    sha256="a0",
                    files={"model.safetensors": "m0", "manifest.json": "any"},
                    manifest={"content_sha256": "c0"},
                    announced={
                        "manifest.json": "s-manifest.json",
                        "model.safetensors": "s-model.safetensors",
                        ARCHIVE: "a0",
                    },
                )
            },
        )

    @property
    def job(self) -> dict[str, Any]:
        return self.observed.jobs[JOB]

    def verdict(self) -> list[Violation]:
        return check(self.observed, self.told, self.imported, {"kd": REFERENCE}, MATERIALS)


def status(sequence: int, value: str) -> dict[str, Any]:
    return {"sequence": sequence, "type": "status", "payload": {"status": value}}


def artifact(name: str) -> dict[str, Any]:
    sha256 = "a0" if name == ARCHIVE else f"s-{name}"
    return {"name": name, "object_key": f"{PREFIX}/{name}", "size_bytes": 7, "sha256": sha256}


def end_as(state: State, ended: str, *, error_code: str | None = None) -> None:
    """Make the job one that ended otherwise, without a student."""
    state.job.update(status=ended, error_code=error_code, result=None)
    state.observed.events[JOB][-1] = status(3, ended)
    if ended == "cancelled":
        state.observed.events[JOB][1:] = [status(2, "running"), status(3, "cancelling"), status(4, "cancelled")]
        state.job["event_sequence"] = 4
    state.told[0].ends = [ended]
    del state.observed.artifacts[JOB], state.observed.downloads[JOB]
    for key in [key for key in state.observed.objects if key.startswith("jobs/")]:
        del state.observed.objects[key]


def test_healthy_state_gives_no_complaint() -> None:
    assert State().verdict() == []


@pytest.mark.parametrize(
    ("intent", "ended", "error_code"),
    [
        (Intent.CANCEL, "cancelled", None),
        (Intent.LIMIT, "failed", "time_limit_exceeded"),
        (Intent.DOOM, "failed", "engine_died"),
        (Intent.DOOM, "failed", "worker_lost"),
    ],
)
def test_what_was_meant_to_end_otherwise_gives_no_complaint(intent: Intent, ended: str, error_code: str | None) -> None:
    state = State(intent)
    end_as(state, ended, error_code=error_code)
    state.told[0].is_cancel_accepted = state.told[0].is_doomed = True
    assert state.verdict() == []


def test_deleted_job_gives_no_complaint() -> None:
    state = State(Intent.DELETE)
    state.told[0].is_deleted = True
    for name in ("jobs", "events", "metrics", "attempts", "artifacts", "downloads"):
        getattr(state.observed, name).clear()
    assert [violation.what for violation in state.verdict()] == [
        f"{PREFIX}/{name} (7 bytes) is named by nothing" for name in ("manifest.json", "model.safetensors", ARCHIVE)
    ]
    for key in [key for key in state.observed.objects if key.startswith("jobs/")]:
        del state.observed.objects[key]
    assert state.verdict() == []


def _twice_terminal(state: State) -> None:
    state.observed.events[JOB].append(status(4, "succeeded"))
    state.job["event_sequence"] = 4


def _gap(state: State) -> None:
    state.observed.events[JOB][2]["sequence"] = 4
    state.job["event_sequence"] = 4


def _same_sequence(state: State) -> None:
    state.observed.events[JOB].insert(1, status(2, "running"))


def _illegal_step(state: State) -> None:
    state.observed.events[JOB][1] = status(2, "paused")


def _no_terminal_event(state: State) -> None:
    state.observed.events[JOB][2] = {"sequence": 3, "type": "phase", "payload": {}}


def _inexact_resume(state: State) -> None:
    state.observed.events[JOB].insert(2, {"sequence": 3, "type": "resumed", "payload": {"exact_resume": False}})
    state.observed.events[JOB][3]["sequence"] = 4
    state.job["event_sequence"] = 4


def _second_job(state: State) -> None:
    state.observed.jobs["job_2"] = {**state.job, "id": "job_2"}


def _other_answer(state: State) -> None:
    state.told[0].job_ids.add("job_2")


def _row_gone(state: State) -> None:
    state.observed.jobs.clear()


def _never_over(state: State) -> None:
    state.told[0].is_done = False


def _other_end(state: State) -> None:
    end_as(state, "failed", error_code="worker_lost")


def _wrong_code(state: State) -> None:
    state.told[0] = State(Intent.LIMIT).told[0]
    end_as(state, "failed", error_code="internal_error")


def _cancel_not_kept(state: State) -> None:
    state.told[0] = State(Intent.CANCEL).told[0]
    state.told[0].is_cancel_accepted = True


def _second_set(state: State) -> None:
    row = state.observed.artifacts[JOB][0]
    row["object_key"] = row["object_key"].replace(TOKEN, "tok2")
    state.observed.objects[row["object_key"]] = 7
    del state.observed.objects[f"{PREFIX}/manifest.json"]


def _server_error(state: State) -> None:
    state.told[0].wrong_answers.append("POST /jobs: 500")


def _stranger(state: State) -> None:
    state.observed.jobs["job_9"] = {**state.job, "id": "job_9", "metadata": {}}


def _put(path: str, value: Any) -> Callable[[State], None]:
    """Put a value in a place of what was observed, such as `jobs/job_1/status`."""

    def change(state: State) -> None:
        *steps, last = path.split("/")
        place: Any = state.observed
        for step in steps:
            place = _inside(place, step)
        if isinstance(place, dict):
            place[last] = copy.deepcopy(value)
        else:
            setattr(place, last, value)

    return change


def _inside(place: Any, step: str) -> Any:
    if isinstance(place, list):
        return place[int(step)]
    return place[step] if isinstance(place, dict) else getattr(place, step)


def _drop(name: str, key: str) -> Callable[[State], None]:
    return lambda state: getattr(state.observed, name).pop(key)


def _add_object(key: str) -> Callable[[State], None]:
    return lambda state: state.observed.objects.__setitem__(key, 3)


# What is spoilt -> how, and what the checker has to say about it.
SPOILT: dict[str, tuple[Callable[[State], None], Kind, str]] = {
    "a second terminal event": (_twice_terminal, Kind.DOUBLED, "terminal events are"),
    "an event sequence twice": (_same_sequence, Kind.DOUBLED, "event sequences [2]"),
    "two jobs for a key": (_second_job, Kind.DOUBLED, "rows are ['job_1', 'job_2']"),
    "two answers for a key": (_other_answer, Kind.DOUBLED, "answers named"),
    "artifacts of two attempts": (_second_set, Kind.DOUBLED, "several attempts"),
    "a metric twice": (_put("metrics/job_1", [LOSS, LOSS]), Kind.DOUBLED, "more than one value"),
    "no terminal event": (_no_terminal_event, Kind.LOST, "terminal events are []"),
    "an accepted job is gone": (_row_gone, Kind.LOST, "there is no such row"),
    "a job that is never over": (_never_over, Kind.LOST, "did not come to its end"),
    "a metric is missing": (_put("metrics/job_1", [LOSS]), Kind.LOST, "1 of 2 metrics are missing"),
    "no download": (_drop("downloads", JOB), Kind.LOST, "could not be downloaded"),
    "a recorded object is gone": (_drop("objects", f"{PREFIX}/{ARCHIVE}"), Kind.LOST, "not there"),
    "a cached file is gone": (_drop("objects", CACHED), Kind.LOST, "not there"),
    "an accepted dataset is gone": (_drop("datasets", "dts_1"), Kind.LOST, "was accepted"),
    "a dataset never ready": (_put("datasets/dts_1/status", "pending"), Kind.LOST, "is pending"),
    "a gap in the sequence": (_gap, Kind.WRONG, "and not 1 to 4"),
    "an illegal transition": (_illegal_step, Kind.WRONG, "went from paused to succeeded"),
    "an inexact resume": (_inexact_resume, Kind.WRONG, "resumed inexactly"),
    "another end than meant": (_other_end, Kind.WRONG, "is failed (worker_lost"),
    "failed for another reason": (_wrong_code, Kind.WRONG, "failed as internal_error"),
    "an accepted cancel was not kept": (_cancel_not_kept, Kind.WRONG, "expected was cancelled"),
    "a lease on what is over": (_put("jobs/job_1/run_token", "t"), Kind.WRONG, "still leased"),
    "an attempt is missing": (_put("jobs/job_1/attempt", 2), Kind.WRONG, "attempts are [1]"),
    "an open attempt": (_put("attempts/job_1/0/finished_at", None), Kind.WRONG, "never ended"),
    "another metric": (_put("metrics/job_1/0/value", 0.6), Kind.WRONG, "not the undisturbed job's"),
    "another student": (_put("jobs/job_1/result/content_sha256", "c1"), Kind.WRONG, "content_sha256 is c1"),
    "another manifest": (_put("downloads/job_1/manifest/content_sha256", "c1"), Kind.WRONG, "manifest's"),
    "other weights": (_put("downloads/job_1/files/model.safetensors", "m1"), Kind.WRONG, "in the archive"),
    "another archive": (_put("downloads/job_1/sha256", "a1"), Kind.WRONG, "came with sha256 a1"),
    "another size": (_put("datasets/dts_1/files/0/size_bytes", 9), Kind.WRONG, "9 are recorded"),
    "another dataset": (_put("datasets/dts_1/sha256", "d1"), Kind.WRONG, "sha256 d1"),
    "another teacher": (_put("teachers/tch_1/sha256", "t1"), Kind.WRONG, "sha256 t1"),
    "an accident": (_put("accidents", ["worker-1 ended by itself"]), Kind.WRONG, "by itself"),
    "an answer nobody should get": (_server_error, Kind.WRONG, "500"),
    "a job that nobody posted": (_stranger, Kind.WRONG, "nobody posted"),
    "an orphan checkpoint": (_add_object("jobs/job_1/tok0/checkpoints/1/state.json"), Kind.LEAKED, "by nothing"),
    "an orphan in the cache": (_add_object("cache/projections/k/x.safetensors"), Kind.LEAKED, "by nothing"),
    "a checkpoint of what is over": (_put("checkpoints/job_1", [CHECKPOINT]), Kind.LEAKED, "checkpoints are recorded"),
    "a process": (_put("processes", ["7 python -m worker.distill"]), Kind.LEAKED, "worker.distill"),
    "a folder": (_put("folders", ["/tmp/left"]), Kind.LEAKED, "/tmp/left"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_complains_about(what: str) -> None:
    spoil, kind, words = SPOILT[what]
    state = State()
    spoil(state)
    assert [v for v in state.verdict() if v.kind is kind and words in v.what], state.verdict()


class TestSharedTuning:
    def test_metrics_of_a_tuning_that_another_job_did_may_be_missing(self) -> None:
        state = State()
        del state.observed.metrics[JOB][1]
        other = copy.deepcopy(state.told[0])
        other.is_deleted = True  # not to be looked at
        other.job_ids = {"job_2"}
        state.told.append(other)
        assert [violation for violation in state.verdict() if "metrics" in violation.what] == []

    def test_other_values_of_it_may_not(self) -> None:
        state = State()
        state.observed.metrics[JOB][1]["value"] = 9.0
        state.told.append(copy.deepcopy(state.told[0]))
        assert [v.kind for v in state.verdict() if "metrics" in v.what] == [Kind.WRONG, Kind.WRONG]


class TestExpectedEnds:
    @pytest.mark.parametrize(
        ("intent", "changes", "expected"),
        [
            (Intent.PAUSE, {}, ["succeeded"]),
            (Intent.CANCEL, {}, ["succeeded"]),  # it was over before
            (Intent.CANCEL, {"is_cancel_accepted": True}, ["cancelled"]),
            (Intent.CANCEL_RETRY, {"ends": ["cancelled", "succeeded"]}, ["cancelled", "succeeded"]),
            (Intent.DOOM_RETRY, {"is_doomed": True}, ["failed", "succeeded"]),
            (Intent.DOOM_RETRY, {}, ["succeeded"]),  # its id became known too late to be hit
        ],
    )
    def test_follow_from_what_was_asked_and_answered(
        self, intent: Intent, changes: dict[str, Any], expected: list[str]
    ) -> None:
        told = State(intent).told[0]
        for name, value in changes.items():
            setattr(told, name, value)
        assert expected_ends(told) == expected
