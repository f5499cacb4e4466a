"""The real engine, killed by SIGKILL inside a named function: `python -m tests.worker.distill.killed_engine
MODULE:FUNCTION CALL before|after RUN_DIR` dies at that call of the function, before or after its work is done.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    target, call, moment, folder = sys.argv[1:]
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, _deadly(getattr(owner, name), int(call), moment))
    sys.argv = ["worker.distill", folder]
    from worker.distill import __main__ as engine

    sys.exit(engine.main())


def _deadly(function: Callable[..., Any], fatal_call: int, moment: str) -> Callable[..., Any]:
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fatal_call and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if calls == fatal_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    main()
