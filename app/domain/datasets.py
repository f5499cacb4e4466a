"""Statuses of a dataset."""

from app.domain.imports import TERMINAL, TRANSITIONS
from app.domain.imports import ImportStatus as DatasetStatus

__all__ = ["TERMINAL", "TRANSITIONS", "DatasetStatus"]
