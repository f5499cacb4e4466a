"""Statuses of a teacher."""

from app.domain.imports import TERMINAL, TRANSITIONS
from app.domain.imports import ImportStatus as TeacherStatus

__all__ = ["TERMINAL", "TRANSITIONS", "TeacherStatus"]
