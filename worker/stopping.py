"""Why a worker lets go of its work, and the wish of the whole process to stop."""

import time

_TICK_SECONDS = 0.1


class WorkStopped(Exception):
    """Raised between steps of the work when it is not to be continued."""


class Cancelled(WorkStopped):
    """Somebody cancelled the job."""


class HandedBack(WorkStopped):
    """The worker or its engine was told to stop, or the job to pause: the work is given back."""


class OutOfTime(WorkStopped):
    """The job has used the time that it was given."""

    def __init__(self, limit_seconds: float | None) -> None:
        super().__init__(
            f"Engines have worked on the job for {limit_seconds:g} seconds, its time_limit_seconds. A retry goes on "
            "from its last checkpoint with as much time again; or post it with a higher limit."
        )


class Shutdown:
    """The worker was told to stop, and by when what it has in hand has to be saved.

    A plain number and no lock: `request` is called from signal handlers.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = float("inf")

    def request(self) -> None:
        if not self.is_requested:
            self._deadline = time.monotonic() + self.seconds

    @property
    def is_requested(self) -> bool:
        return self._deadline != float("inf")

    @property
    def seconds_left(self) -> float:
        """Until then; infinite while nobody asked."""
        return self._deadline - time.monotonic()

    def wait(self, seconds: float) -> bool:
        """Sleep, waking up early when the stop is requested; True when it is."""
        end = time.monotonic() + seconds
        while not self.is_requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_SECONDS))
        return self.is_requested
