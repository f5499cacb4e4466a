"""A teacher from a model hub, downloaded by a process of its own, which can be stopped.

Nothing stops a thread inside the hub's library; gigabytes later it would still write, on the disk of the next work.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from worker.own_programs import own_environment
from worker.preparation.errors import PreparationFailed, Tick, no_tick

LOOK_SECONDS = 0.5
_PROGRAM = (sys.executable, "-m", "worker.preparation.hub_download")


def download_teacher(
    repo: str, revision: str, folder: Path, *, endpoint: str, token: str | None, tick: Tick = no_tick
) -> str:
    """Download the teacher's files into `folder`; returns the commit that `revision` stood for.

    When `tick` raises, the download is over at once and writes nothing more.
    """
    tick()
    process = start_download(repo=repo, revision=revision, folder=str(folder), endpoint=endpoint, token=token)
    try:
        while not _has_ended(process):
            tick()
        if process.returncode:
            tick()  # who was told to leave together with it has not failed
        return _read_answer(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def start_download(**request: str | None) -> "subprocess.Popen[bytes]":
    """Start hub_download.py; it exits when its standard input is closed, so with us however we end."""
    process = subprocess.Popen(
        _PROGRAM,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=own_environment(os.environ),
        # Ctrl-C is for us; we end it.
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its end says why
        process.stdin.write(json.dumps(request).encode() + b"\n")
    return process


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _read_answer(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    try:
        answer: dict[str, Any] = json.loads(process.stdout.read())
    except ValueError:
        raise RuntimeError(f"the download ended with {process.returncode} and without an answer") from None
    if "commit" in answer:
        return str(answer["commit"])
    if "code" in answer:
        raise PreparationFailed(answer["code"], answer["message"])
    error = RuntimeError(answer["error"]) if answer["errno"] is None else OSError(answer["errno"], answer["error"])
    error.add_note(answer["traceback"])
    raise error
