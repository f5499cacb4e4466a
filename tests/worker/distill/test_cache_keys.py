"""What an entry of the cache depends on: all that decides what is in it, and nothing else."""

from typing import Any

import pytest

from worker.distill.cache_keys import PROJECTIONS, TEACHER_OUTPUTS, TUNED_TEACHERS, wanted

JOB: dict[str, Any] = {
    "format_version": 1,
    "job_id": "job_1",
    "teacher": {"path": "teacher", "sha256": "a teacher's"},
    "dataset": {"path": "dataset", "sha256": "a dataset's"},
    "student": {"layers": 2, "hidden_size": "same", "init": "teacher_layers", "word_vectors": "trained"},
    "method": {"type": "kd", "temperature": 2.0, "alpha": 0.9},
    "combine": [],
    "baselines": [],
    "training": {
        "epochs": 3.0,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "max_length": 24,
        "precision": "auto",
        "seed": 11,
        "deterministic": True,
    },
    "teacher_tuning": {
        "epochs": 2.0,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "seed": 7,
    },
    "threads": 1,
    "checkpoint": {"every_seconds": 60.0, "keep": 2},
}

ALL = {TUNED_TEACHERS, TEACHER_OUTPUTS, PROJECTIONS}
OF_THE_TUNED = {TUNED_TEACHERS, TEACHER_OUTPUTS}
# Another value of each field that has one, and the kinds of entries that are others by it.
OTHERS: dict[str, tuple[Any, set[str]]] = {
    "job_id": ("job_2", set()),
    "teacher.path": ("elsewhere", set()),
    "teacher.sha256": ("another teacher's", ALL),
    "dataset.path": ("elsewhere", set()),
    "dataset.sha256": ("another dataset's", ALL),
    "student.layers": (3, set()),
    "student.word_vectors": ("frozen", set()),
    "method": ({"type": "fine_tune"}, set()),
    "combine": ([{"type": "pld", "temperature": 1.0}], set()),
    "baselines": ([{"type": "fine_tune"}], set()),
    "training.epochs": (4.0, set()),
    "training.batch_size": (32, set()),
    "training.learning_rate": (1e-3, set()),
    "training.warmup_ratio": (0.2, set()),
    "training.weight_decay": (0.1, set()),
    "training.max_length": (32, ALL),
    # What it becomes is in the name of the outputs' file, but a teacher is tuned in it.
    "training.precision": ("bf16", OF_THE_TUNED),
    "training.seed": (12, set()),
    "training.deterministic": (False, set()),
    "teacher_tuning.epochs": (3.0, OF_THE_TUNED),
    "teacher_tuning.batch_size": (32, OF_THE_TUNED),
    "teacher_tuning.learning_rate": (1e-3, OF_THE_TUNED),
    "teacher_tuning.warmup_ratio": (0.2, OF_THE_TUNED),
    "teacher_tuning.weight_decay": (0.1, OF_THE_TUNED),
    "teacher_tuning.seed": (8, OF_THE_TUNED),
    "threads": (2, set()),
    "checkpoint.every_seconds": (1.0, set()),
    "checkpoint.keep": (3, set()),
}
# The engine knows one value of these alone.
WITHOUT_CHOICE = {"format_version", "student.hidden_size", "student.init"}
SECTIONS = {"teacher", "dataset", "student", "training", "teacher_tuning", "checkpoint"}
UNTUNED = JOB | {"teacher_tuning": None}


def with_other(job: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    section, _, name = field.partition(".")
    return job | {section: job[section] | {name: value} if name else value}


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The kinds of which the jobs ask for entries of their own."""
    return {kind for kind, _ in set(wanted(one)) ^ set(wanted(other))}


class TestWanted:
    @pytest.mark.parametrize("field", OTHERS)
    def test_is_another_entry_where_another_field_decides_what_is_in_it(self, field: str) -> None:
        """Harm: a job learns from the teacher of another one; or each job tunes a teacher that was tuned before."""
        value, kinds = OTHERS[field]
        assert differing(JOB, with_other(JOB, field, value)) == kinds

    def test_of_every_field_it_is_said_above_what_depends_on_it(self) -> None:
        fields = {f"{section}.{name}" for section in SECTIONS for name in JOB[section]} | (set(JOB) - SECTIONS)
        assert fields == set(OTHERS) | WITHOUT_CHOICE

    def test_a_number_is_the_same_however_it_is_written(self) -> None:
        assert not differing(JOB, with_other(JOB, "teacher_tuning.epochs", 2))

    def test_a_teacher_as_it_came_says_something_else_than_a_tuned_one(self) -> None:
        assert {kind for kind, _ in wanted(JOB)} == ALL
        assert {kind for kind, _ in wanted(UNTUNED)} == {TEACHER_OUTPUTS, PROJECTIONS}
        assert differing(JOB, UNTUNED) == OF_THE_TUNED

    def test_the_outputs_of_a_teacher_as_it_came_are_found_under_any_precision(self) -> None:
        """Each has a file of its own there."""
        assert not differing(UNTUNED, with_other(UNTUNED, "training.precision", "bf16"))

    def test_is_another_entry_where_other_code_computes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = set(wanted(JOB))
        with monkeypatch.context() as patch:
            patch.setattr("worker.distill.cache_keys.CODE_VERSION", 1_000)
            assert not before & set(wanted(JOB))
        monkeypatch.setattr("worker.distill.cache_keys.version", lambda _: "another UMAP's")
        assert {kind for kind, _ in before - set(wanted(JOB))} == {PROJECTIONS}
