"""A worker's hold on one row: what it got from the database when it claimed work."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["dataset", "teacher", "job"]


@dataclass(frozen=True)
class Claim:
    """Work that this worker holds until its lease runs out; every write names `id` and `run_token`."""

    kind: Kind
    id: str
    run_token: str
    # How often the row has been claimed, this time included.
    attempt: int
    # Of the request that posted the job.
    request_id: str | None = None
    traceparent: str | None = None
    # For how long engines may work on a job, and for how long they have in earlier attempts; None: as long as it takes.
    time_limit_seconds: float | None = None
    run_seconds: float = 0.0
