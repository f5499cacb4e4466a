"""Threads whose log lines carry what those of their starter do, such as the job's id."""

import contextvars
import threading
from collections.abc import Callable


def logged_thread(target: Callable[[], None], *, name: str) -> threading.Thread:
    """A daemon thread, not started yet, with a copy of the caller's log context."""
    return threading.Thread(target=contextvars.copy_context().run, args=(target,), name=name, daemon=True)
