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


def quote(value: object, limit: int = 60) -> str:
    """A value as messages show it: quoted, and cut so that a message stays a sentence."""
    text = str(value)
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def quote_all(values: list[str], limit: int = 5) -> str:
    """The first few of many values, and how many more there are."""
    shown = ", ".join(quote(value) for value in values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"
