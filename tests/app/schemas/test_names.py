"""What a client reads as a status or an outcome is what the domain knows."""

from enum import StrEnum
from typing import Any, get_args

import pytest

from app.domain.attempts import AttemptOutcome
from app.domain.imports import ImportStatus
from app.domain.jobs import JobStatus
from app.schemas.attempts import AttemptOutcomeName
from app.schemas.base import ImportStatusName
from app.schemas.jobs import JobStatusName


@pytest.mark.parametrize(
    ("names", "known"),
    [(AttemptOutcomeName, AttemptOutcome), (ImportStatusName, ImportStatus), (JobStatusName, JobStatus)],
)
def test_every_one_has_its_name(names: Any, known: type[StrEnum]) -> None:
    """Harm: a new outcome is a 500 wherever it is shown."""
    assert set(get_args(names)) == set(known)
