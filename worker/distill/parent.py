"""A child that must not outlive its parent watches its standard input, which the parent holds open."""

import os
import signal
import threading


def die_with_parent() -> None:
    """Exit at once when standard input ends: whoever held the other end is gone, however it went."""
    threading.Thread(target=_wait_for_end, daemon=True).start()


def leave_only_with_parent() -> None:
    """As that, and by no signal that asks to leave: where all processes get one at once, as at a machine's end, the
    parent would take the child's end for a failure."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    die_with_parent()


def _wait_for_end() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
