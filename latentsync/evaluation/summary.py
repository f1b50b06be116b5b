"""Means over clips with confidence intervals: clips are drawn again, with replacement (Efron's bootstrap)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentsync.evaluation.clip import ClipRow

DRAWS = 2000
LEVEL = 0.95
MIN_CLIPS = 3  # of fewer an interval says nothing


@dataclass(frozen=True)
class Interval:
    """A mean over `clips` clips; `low` and `high` hold it in 95 of 100 cases, NaN for fewer than 3 clips."""

    mean: float
    low: float
    high: float
    clips: int


def bootstrap(values: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of numbers and the percentile interval of it. Raises: ValueError for none, or not finite."""
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"a mean needs finite numbers, got {list(values)}")
    if len(numbers) < MIN_CLIPS:
        return Interval(float(numbers.mean()), math.nan, math.nan, len(numbers))
    drawn = np.random.default_rng(seed).integers(0, len(numbers), (draws, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(numbers.mean()), float(low), float(high), len(numbers))


def summary(rows: Sequence[ClipRow]) -> dict[str, Interval]:
    """Every number that any clip has, over the clips where it is valid."""
    names = dict.fromkeys(name for row in rows for name in row.numbers)
    values = {name: [v for row in rows if (v := row.numbers.get(name)) is not None] for name in names}
    return {name: bootstrap(found) for name, found in values.items() if found}
