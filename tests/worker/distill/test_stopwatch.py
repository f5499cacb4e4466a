import time

from worker.distill.stopwatch import Stopwatch


class TestStopwatch:
    def test_an_inner_part_takes_its_time_from_the_outer_one(self) -> None:
        """Harm: labelling that is counted as training too, so that the parts are more than the whole."""
        watch = Stopwatch()
        began = time.monotonic()
        with watch.on("training"):
            time.sleep(0.05)
            with watch.on("labelling"):
                time.sleep(0.2)
            time.sleep(0.05)
        whole = time.monotonic() - began
        assert watch.seconds["labelling"] >= 0.2
        assert watch.seconds["training"] >= 0.1
        assert abs(sum(watch.seconds.values()) - whole) < 0.01

    def test_a_part_adds_up_over_its_turns_also_when_one_ends_in_an_error(self) -> None:
        watch = Stopwatch()
        for _ in range(2):
            try:
                with watch.on("scoring"):
                    time.sleep(0.02)
                    raise KeyError
            except KeyError:
                pass
        assert watch.seconds["scoring"] >= 0.04

    def test_what_belongs_to_no_part_is_not_booked(self) -> None:
        watch = Stopwatch()
        with watch.on("scoring"):
            pass
        time.sleep(0.05)
        with watch.on("scoring"):
            pass
        assert watch.seconds["scoring"] < 0.04
