"""The peak learning rates of a job that names none: by the width of its teacher, which is its student's too."""

from typing import Final

# For vectors of 384 dimensions and fewer.
STUDENT: Final = 2e-4
TUNING: Final = 1e-4
_WIDTH: Final = 384


def by_width(rate: float, width: int | None) -> float:
    """`rate`, which is for vectors of up to 384 dimensions or of an unknown number, times (384 / width)^2 for wider
    ones, to two significant digits.

    A rule of thumb drawn through the two encoders that the benches measure (bench/models.py): all-MiniLM-L6-v2, 384
    wide, with 2e-4 and 1e-4 for its tuning, and all-mpnet-base-v2, 768 wide, with 5e-5, the best on the validation rows
    of the three that were tried, and the lowest of them, and 3e-5, where the rule has 2.5e-5. No other width was tried.
    """
    if width is None or width <= _WIDTH:
        return rate
    return float(f"{rate * (_WIDTH / width) ** 2:.2g}")
