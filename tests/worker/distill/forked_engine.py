"""The engine as a process of its own, to be killed, without the seconds of its imports: it is forked from a process
that has made them and done nothing else. How the program itself starts is the matter of test_program.py.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# The second for what transformers imports of a tiny model no sooner than it is loaded.
_CONTEXT.set_forkserver_preload(["worker.distill.loop", "tests.fixtures.tiny_models"])


@dataclass(frozen=True)
class Instant:
    """A moment in a run, the call of that number of a function, before or after its work is done; and the signal that
    comes then."""

    function: str  # "module:path"
    call: int
    moment: str
    sends: signal.Signals = signal.SIGKILL


def fork_engine(folder: Path, dies_at: Instant | None = None) -> BaseProcess:
    """The engine at work in `folder`; it sends itself the signal of the instant `dies_at` where one is named."""
    engine = _CONTEXT.Process(target=_run, args=(folder, dies_at), daemon=True)
    engine.start()
    return engine


def _run(folder: Path, dies_at: Instant | None) -> None:
    from worker.distill import __main__ as engine

    if dies_at is not None:
        module, _, path = dies_at.function.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, _deadly(getattr(owner, name), dies_at))
    sys.argv = ["worker.distill", str(folder)]
    engine._leave(engine.main())


def _deadly(function: Callable[..., Any], instant: Instant) -> Callable[..., Any]:
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == instant.call and instant.moment == "before":
            os.kill(os.getpid(), instant.sends)
        result = function(*arguments, **named)
        if calls == instant.call and instant.moment == "after":
            os.kill(os.getpid(), instant.sends)
        return result

    return call
