"""What POST /jobs refuses because teacher, dataset and job do not fit each other.

And what is wrong with the job alone that a release before took: sent again, the request has to find the job it made.
"""

from dataclasses import dataclass

from app.db.models import Dataset, Teacher
from app.domain.imports import ImportStatus
from app.errors import Conflict, InvalidRequest
from app.schemas.job_bodies import JobCreate
from app.schemas.methods.base import MethodParameters
from app.schemas.methods.combinations import makes_up_rows, wastes_rows_without_label, weight_of
from app.schemas.methods.llkd import Llkd
from app.schemas.methods.registry import Method
from app.schemas.methods.taid import Taid

_LABELS_SHOWN = 5


def check_alone(job: JobCreate) -> None:
    """Refuse a job that no teacher and no dataset would fit."""
    _check_target(job)


def check_ready(kind: str, row: Dataset | Teacher) -> None:
    """Refuse a dataset or teacher that no worker has found good yet, or ever."""
    if row.status == ImportStatus.PENDING:
        state = "it is being checked"
        if row.run_token is None:
            state = "no worker has taken it yet. If it stays so, all are busy or none runs"
        raise Conflict(
            f"{kind.capitalize()} {row.id!r} is still pending: {state}. "
            f"Poll GET /{kind}s/{row.id} until terminal is true, then send the job again.",
            code=f"{kind}_not_ready",
            param=kind,
        )
    if row.status == ImportStatus.FAILED:
        raise Conflict(
            f"{kind.capitalize()} {row.id!r} failed its checks ({row.error_code}): {row.error_message} "
            f"Add a corrected one with POST /{kind}s.",
            code=f"{kind}_failed",
            param=kind,
        )


def check_fit(job: JobCreate, teacher: Teacher, dataset: Dataset) -> None:
    """Refuse a job whose parts contradict each other; both rows are ready."""
    _check_depth(job, teacher)
    _check_length(job, teacher)
    _check_subclasses(job, teacher, dataset)
    _check_gate(job, dataset)
    _check_rows_without_label(job, dataset)
    if job.teacher_tuning is None:
        _check_labels(teacher, dataset)


def _check_depth(job: JobCreate, teacher: Teacher) -> None:
    if teacher.layers is not None and job.student.layers > teacher.layers:
        raise InvalidRequest(
            f"student.layers is {job.student.layers}, but init 'teacher_layers' has only the {teacher.layers} "
            f"layers of teacher {teacher.id!r} to offer. Ask for {teacher.layers} or fewer.",
            code="student_too_deep",
            param="student.layers",
        )


def _check_length(job: JobCreate, teacher: Teacher) -> None:
    if teacher.max_positions is not None and job.training.max_length > teacher.max_positions:
        raise InvalidRequest(
            f"training.max_length is {job.training.max_length}, but teacher {teacher.id!r} reads at most "
            f"{teacher.max_positions} tokens. Ask for {teacher.max_positions} or fewer.",
            code="max_length_too_long",
            param="training.max_length",
        )


def _check_subclasses(job: JobCreate, teacher: Teacher, dataset: Dataset) -> None:
    classes, width = len(dataset.labels or []), teacher.hidden_size
    if width is None or width > classes:
        return
    trained = {place: method.type for place, method in _methods(job).items()}
    baselines = {f"baselines[{index}]": name for index, name in enumerate(job.baselines)}
    for place, name in (trained | baselines).items():
        if name == "lelp":
            raise InvalidRequest(
                f"{place} is 'lelp', which teaches what the teacher's classifier does not see; of the {width} "
                f"dimensions of teacher {teacher.id!r} one of the {classes} classes of dataset {dataset.id!r} sees "
                "all. Take 'kd', or a wider teacher.",
                code="teacher_too_narrow",
                param=place,
            )


def _check_gate(job: JobCreate, dataset: Dataset) -> None:
    methods = _methods(job)
    if any(method.makes_rows for method in methods.values()) or _unlabelled_rows(dataset):
        return
    for place, method in methods.items():
        if isinstance(method, Llkd) and method.gated == "synthetic":
            raise InvalidRequest(
                f"{place}.gated is 'synthetic', and no method of this job makes synthetic rows; nor has dataset "
                f"{dataset.id!r} unlabelled ones. Add 'sage' or 'random_anchors', or leave it out.",
                code="gate_without_rows",
                param=f"{place}.gated",
            )


def _check_target(job: JobCreate) -> None:
    for place, method in _methods(job).items():
        if isinstance(method, Taid) and method.lambda_end == 0:
            raise InvalidRequest(
                f"{place}.lambda_end is 0, so the student's target is its own answer to the end, and nothing would be "
                "learnt from the teacher. Raise it, to at most 1.",
                code="target_without_teacher",
                param=f"{place}.lambda_end",
            )


def _check_rows_without_label(job: JobCreate, dataset: Dataset) -> None:
    # With what they lack to be a whole training, which has a loss that learns from any row.
    wasted = _wasted([job.method, *job.completed_combine()], dataset)
    for place, method in _methods(job).items():
        if wasted is not None and method is wasted.method:
            parameter = f"{place}.{weight_of(type(method))}"
            raise InvalidRequest(
                f"{parameter} is 0, and {wasted.what} no label, so nothing would be learnt from them. Raise it, or "
                f"{wasted.way_out}.",
                code=wasted.code,
                param=parameter,
            )
    for index, baseline in enumerate(job.resolved_baselines()):
        wasted = _wasted([baseline], dataset)
        if wasted is not None:
            raise InvalidRequest(
                f"baselines[{index}] is {baseline.type!r}, whose {weight_of(type(baseline))} is 0 by what the job says "
                f"of its methods, and {wasted.what} no label, so nothing would be learnt from them. "
                "Raise it there, or leave the baseline out.",
                code=wasted.code,
                param=f"baselines[{index}]",
            )


@dataclass(frozen=True)
class _Wasted:
    method: MethodParameters  # that would have to learn from the rows
    what: str  # the rows
    way_out: str
    code: str


def _wasted(methods: list[MethodParameters], dataset: Dataset) -> _Wasted | None:
    """The rows without a label that a training by these methods has, and learns nothing from."""
    method = wastes_rows_without_label(methods)
    if method is None:
        return None
    # First: who sets synthetic_ratio to 0 would have these all the same.
    if rows := _unlabelled_rows(dataset):
        what = f"{rows} rows of dataset {dataset.id!r} have"
        return _Wasted(method, what, "take a dataset without unlabelled rows", "unlabelled_rows_wasted")
    if makes_up_rows(methods):
        return _Wasted(method, "the rows that this job makes up have", "set synthetic_ratio to 0", "new_rows_wasted")
    return None


def _unlabelled_rows(dataset: Dataset) -> int:
    return dataset.unlabelled_rows or 0


def _methods(job: JobCreate) -> dict[str, Method]:
    """Those that the body names for the student, by their places."""
    return {"method": job.method} | {f"combine[{index}]": method for index, method in enumerate(job.combine)}


def _check_labels(teacher: Teacher, dataset: Dataset) -> None:
    tune = (
        "Add teacher_tuning ({} takes the defaults) to have the teacher fine-tuned on the dataset "
        "first, or name another teacher."
    )
    if teacher.num_labels is None:
        raise InvalidRequest(
            f"teacher {teacher.id!r} has no classifier that chooses one of several classes (a pretrained encoder, or a "
            f"head of another kind), so it has no outputs to distil. {tune}",
            code="teacher_needs_tuning",
            param="teacher_tuning",
        )
    wanted = dataset.labels or []
    if teacher.num_labels != len(wanted):
        raise InvalidRequest(
            f"teacher {teacher.id!r} tells {teacher.num_labels} classes apart, dataset {dataset.id!r} has "
            f"{len(wanted)}. {tune}",
            code="label_count_mismatch",
            param="teacher",
        )
    known = teacher.labels or []
    # What transformers writes into a config when nobody named the classes. In another order they are names.
    has_names = bool(known) and known != [f"LABEL_{index}" for index in range(len(known))]
    if has_names and set(known) != set(wanted):
        raise InvalidRequest(
            f"teacher {teacher.id!r} and dataset {dataset.id!r} name their classes differently: only the teacher "
            f"has {_some(set(known) - set(wanted))}, only the dataset {_some(set(wanted) - set(known))}. "
            f"Rename the dataset's labels. Or: {tune}",
            code="label_name_mismatch",
            param="teacher",
        )


def _some(names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:_LABELS_SHOWN])
    return f"{shown} and {len(names) - _LABELS_SHOWN} more" if len(names) > _LABELS_SHOWN else shown
