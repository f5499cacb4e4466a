"""A teacher's files among those of a folder, a repository, an upload or a job, as a worker takes them."""

from collections.abc import Iterable

from app.domain.teacher_files import NoTeacherFiles, files_of_teacher
from worker.preparation.errors import PreparationFailed


def choose_files(names: Iterable[str], *, place: str) -> list[str]:
    """`files_of_teacher`; raises PreparationFailed where they make none."""
    try:
        return files_of_teacher(names, place=place)
    except NoTeacherFiles as error:
        raise PreparationFailed(error.code, error.message) from error
