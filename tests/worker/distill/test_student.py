import pytest

from worker.distill.errors import InvalidJob
from worker.distill.student import chosen_layers
from worker.distill.train import Schedule


class TestChosenLayers:
    @pytest.mark.parametrize(
        ("student", "teacher", "expected"),
        [(1, 6, [5]), (2, 6, [0, 5]), (3, 6, [0, 2, 5]), (6, 6, [0, 1, 2, 3, 4, 5]), (6, 12, [0, 2, 4, 7, 9, 11])],
    )
    def test_are_spread_from_the_first_to_the_last(self, student: int, teacher: int, expected: list[int]) -> None:
        assert chosen_layers(student, teacher) == expected

    @pytest.mark.parametrize("layers", [0, 7])
    def test_refuses_more_than_the_teacher_has_and_none(self, layers: int) -> None:
        with pytest.raises(InvalidJob, match=rf"student\.layers is {layers}.*choose 1 to 6"):
            chosen_layers(layers, 6)


class TestSchedule:
    def test_rises_in_the_warm_up_and_falls_towards_zero(self) -> None:
        schedule = Schedule(learning_rate=1.0, warmup_ratio=0.1, weight_decay=0.0, batch_size=1)
        rates = [schedule.rate_at(step, 100) for step in range(100)]
        assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert max(rates) == 1.0
        assert 0 < rates[-1] < 0.02
