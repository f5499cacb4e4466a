"""A teacher's source in, a checked folder with a summary and a content hash out."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.files import StoredFile
from worker.files import content_sha256, describe_files
from worker.preparation.teacher_checks import TeacherSummary, check_teacher, spell_out_labels


@dataclass(frozen=True)
class PreparedTeacher:
    """A folder with nothing but a teacher's files, and what is known of it."""

    summary: TeacherSummary
    files: list[StoredFile]
    sha256: str
    size_bytes: int


def describe_teacher(folder: Path) -> PreparedTeacher:
    """Check the teacher's files in `folder` and hash them; raises PreparationFailed.

    Its config.json is written anew where its class names are not text.
    """
    spell_out_labels(folder)
    summary = check_teacher(folder)
    files = describe_files(folder)
    return PreparedTeacher(summary, files, content_sha256(files), sum(file["size_bytes"] for file in files))
