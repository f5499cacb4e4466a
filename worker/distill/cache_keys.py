"""What outlives a job: tuned teachers, teacher outputs and projections, each under the hash of its inputs.

A key depends on nothing that only the device knows, so the worker can compute it without torch,
fetch what another job left, and hand it to the engine as files. What the engine alone knows, such as the
precision that "auto" became on its device and the tokens of the texts, is in the file's name.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from worker.distill.config import JobConfig

# Part of every key: raise it when the numbers that the code below a key computes change.
CODE_VERSION = 5

TUNED_TEACHERS = "tuned_teachers"
TEACHER_OUTPUTS = "teacher_outputs"
PROJECTIONS = "projections"


def tuned_teacher_key(job: JobConfig) -> str | None:
    """The teacher after `teacher_tuning`; None where the job tunes nothing."""
    if job.teacher_tuning is None:
        return None
    return _key(
        teacher=job.teacher.sha256,
        dataset=job.dataset.sha256,
        tuning=vars(job.teacher_tuning),
        max_length=job.training.max_length,
        precision=job.training.precision,
    )


def teacher_outputs_key(job: JobConfig) -> str:
    """The logits of the (tuned) teacher over every row of the dataset."""
    return _key(
        teacher=job.teacher.sha256,
        tuned=tuned_teacher_key(job),
        dataset=job.dataset.sha256,
        max_length=job.training.max_length,
        # Those kept before had the outputs of a teacher without names of its own by number, also where LABEL_10 and
        # LABEL_2 were the dataset's names too.
        classes="by name",
    )


def projection_key(job: JobConfig) -> str:
    """Coordinates of the pooled input vectors of the teacher as it came, whatever tuning makes of it."""
    return _key(
        teacher=job.teacher.sha256,
        dataset=job.dataset.sha256,
        max_length=job.training.max_length,
        umap=version("umap-learn"),
    )


def wanted(raw_job: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (kind, key) pairs that a run of the parsed job.json would use if it found them."""
    job = JobConfig.parse(raw_job)
    pairs = [(TEACHER_OUTPUTS, teacher_outputs_key(job)), (PROJECTIONS, projection_key(job))]
    if tuned := tuned_teacher_key(job):
        pairs.append((TUNED_TEACHERS, tuned))
    return pairs


def _key(**ingredients: Any) -> str:
    # The files of entries kept before did not say of which tokens they are: each job would fetch them for nothing.
    text = json.dumps({"code": CODE_VERSION, "tokens": "by name of the file", **ingredients}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
