"""The trainings of a run, called arms: their names, and in which order they come."""

from worker.distill.config import JobConfig, MethodConfig

TUNING = "teacher_tuning"
STUDENT = "student"


def baseline(method_type: str) -> str:
    """The arm of the job's baseline of that type."""
    return f"baseline.{method_type}"


def methods_by_arm(job: JobConfig) -> dict[str, list[MethodConfig]]:
    """What the student and each baseline learn by, in the order of their training."""
    return {STUDENT: [job.method, *job.combine]} | {baseline(method.type): [method] for method in job.baselines}
