"""Folders of this machine that its other users keep to themselves: which, and what opens them to the worker's user.

For the worker, and for the API of the embedded mode, which runs as the same user.
"""

import os
import shlex
from pathlib import Path


def why_closed(folder: Path) -> str | None:
    """Which folder may not be entered, this one or one on the way to it, or that this one may not be listed, and what
    helps; None where nothing is in the way, or is there."""
    for place in reversed(folder.parents):
        if not os.path.isdir(place):
            return None
        if not os.access(place, os.X_OK):
            # Not all of it: that may be somebody's whole home.
            return ask_for_rights(f"{place} cannot be entered", f"chmod a+x {shlex.quote(str(place))}")
    if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
        return ask_for_rights(f"{folder} cannot be read", open_all(folder))
    return None


def ask_for_rights(what: str, command: str) -> str:
    """`what` says of something that it cannot be used, `command` makes it usable."""
    return (
        f"{what} by the worker's user (uid {os.geteuid()}). Run `{command}` on the machine that has it, or make that "
        "user its owner; then post the teacher again."
    )


def open_all(folder: Path) -> str:
    """The command that lets every user read the folder with all that is in it."""
    return f"chmod -R a+rX {shlex.quote(str(folder))}"
