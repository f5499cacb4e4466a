from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest

from worker.distill import stopwatch
from worker.distill.stopwatch import Stopwatch


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets that many seconds go by, by the clock that a stopwatch reads."""
    now = 1_000.0

    def let(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(monotonic=lambda: now))
    return let


class TestStopwatch:
    def test_an_inner_part_takes_its_time_from_the_outer_one(self, let_pass: Callable[[float], None]) -> None:
        """Harm: labelling that is counted as training too, so that the parts are more than the whole."""
        watch = Stopwatch()
        with watch.on("training"):
            let_pass(1)
            with watch.on("labelling"):
                let_pass(4)
            let_pass(2)
        assert watch.seconds == {"training": 3, "labelling": 4}

    def test_a_part_adds_up_over_its_turns_also_when_one_ends_in_an_error(
        self, let_pass: Callable[[float], None]
    ) -> None:
        watch = Stopwatch()
        for seconds in (1, 2):
            with suppress(KeyError), watch.on("scoring"):
                let_pass(seconds)
                raise KeyError
        assert watch.seconds == {"scoring": 3}

    def test_what_belongs_to_no_part_is_not_booked(self, let_pass: Callable[[float], None]) -> None:
        watch = Stopwatch()
        let_pass(8)
        with watch.on("scoring"):
            let_pass(1)
        let_pass(16)
        with watch.on("scoring"):
            let_pass(2)
        assert watch.seconds == {"scoring": 3}
