"""Threads that some work has to itself: requests that hang take none from it, and it takes none from them."""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

Result = TypeVar("Result")


class OwnThreads:
    """At most `count` of them in each event loop."""

    def __init__(self, name: str, count: int) -> None:
        self._count = count
        self._limiter: RunVar[CapacityLimiter] = RunVar(name)

    async def run(self, work: Callable[[], Result], *, abandon_on_cancel: bool = False) -> Result:
        """What `work` returns; with `abandon_on_cancel` a cancel does not wait for it."""
        return await run_sync(work, abandon_on_cancel=abandon_on_cancel, limiter=self._limiter_of_this_loop())

    def _limiter_of_this_loop(self) -> CapacityLimiter:
        try:
            return self._limiter.get()
        except LookupError:
            limiter = CapacityLimiter(self._count)
            self._limiter.set(limiter)
            return limiter
