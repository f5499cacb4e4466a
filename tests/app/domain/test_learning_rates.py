import pytest

from app.domain.learning_rates import STUDENT, TUNING, by_width


class TestByWidth:
    @pytest.mark.parametrize(
        ("width", "student", "tuning"),
        [
            (None, 2e-4, 1e-4),
            (128, 2e-4, 1e-4),
            (384, 2e-4, 1e-4),
            (512, 1.1e-4, 5.6e-5),
            (768, 5e-5, 2.5e-5),
            (1024, 2.8e-5, 1.4e-5),
        ],
    )
    def test_by_hand(self, width: int | None, student: float, tuning: float) -> None:
        """Harm: a BERT-base learns at four times the rate that suits it."""
        assert (by_width(STUDENT, width), by_width(TUNING, width)) == (student, tuning)
