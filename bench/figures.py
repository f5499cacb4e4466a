"""What is computed from cells: ratios within a round, means and paired differences with an interval."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.stats import t as student_t

# What is paired: a round, or a dataset and a round.
Pair = TypeVar("Pair", int, tuple[str, int])

# What a verdict asks for: two differences may be next to equal by chance, and their interval is then next to nothing.
SEEDS_AT_LEAST = 3


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """ours / theirs of each round that both have: what else the machine did then, it did to both."""
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def median_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    within = ratios(ours, theirs)
    return statistics.median(within) if within else None


@dataclass(frozen=True)
class Difference:
    """A mean difference over `pairs` pairs; `half_width` is of its 95 % interval, infinite for a single pair."""

    mean: float
    half_width: float
    pairs: int


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval by Student's t, infinite for a single value."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(student_t.ppf(0.975, len(values) - 1)) * error


def paired_difference(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> Difference | None:
    """ours less theirs, paired by round (the same seed and order), with Student's t at 95 %."""
    differences = [ours[number] - theirs[number] for number in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    mean, half_width = mean_interval(differences)
    return Difference(mean, half_width, len(differences))
