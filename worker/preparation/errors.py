"""What preparation tells a person when it cannot use what it was given."""

from collections.abc import Callable

# Called between batches of work: raises when the work is no longer wanted (lease lost, worker stopping).
Tick = Callable[[], None]

# A message is kept with its row and shown with it; a library's, or what a file held, has no bound of its own.
_MAX_MESSAGE_CHARACTERS = 2_000


def no_tick() -> None:
    """For callers that never give up, such as tests and one-off scripts."""


class PreparationFailed(Exception):
    """A dataset or teacher that cannot be used: `code` for programs, `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        if len(message) > _MAX_MESSAGE_CHARACTERS:
            message = message[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
        super().__init__(message)
        self.code = code
        self.message = message
