"""Statuses of what is brought in, datasets and teachers: pending until a worker has checked it."""

from enum import StrEnum


class ImportStatus(StrEnum):
    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


TERMINAL: frozenset[ImportStatus] = frozenset({ImportStatus.READY, ImportStatus.FAILED})

TRANSITIONS: dict[ImportStatus, frozenset[ImportStatus]] = {
    ImportStatus.PENDING: frozenset({ImportStatus.READY, ImportStatus.FAILED}),
    ImportStatus.READY: frozenset(),
    ImportStatus.FAILED: frozenset(),
}


def sources(new: ImportStatus) -> frozenset[ImportStatus]:
    """The statuses from which a dataset or a teacher may become `new`."""
    return frozenset(status for status, targets in TRANSITIONS.items() if new in targets)
