"""Change points: where the level of a metric shifted in its history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import numpy as np

MIN_VALUES = 10
"""Fewer values have no change points, because noise looks like a shift."""

MIN_LEVEL_VALUES = 3
"""A level lasts for at least this number of values; fewer are outliers."""

_PENALTY = 12.0
_WINDOW = 5
_OUTLIER_DEVIATIONS = 3.0
_LOWEST_DEVIATION = 0.001  # of logarithms: 0.1 %
_DEVIATION_OF_MAD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Shift:
    """A change of the level of a metric.

    Attributes:
        index: The index of the first value on the new level.
        change: The change of the level, as a share of the level before: 0.05 is 5 % higher.
    """

    index: int
    change: float


@dataclass(frozen=True)
class Level:
    """Consecutive values around one level.

    Attributes:
        first: The index of the first value.
        last: The index of the last value.
        value: The geometric mean of the values, without the influence of outliers.
    """

    first: int
    last: int
    value: float


def find_levels(values: Sequence[float]) -> list[Level]:
    """Split a history at its change points.

    The split minimizes the squared distances of the logarithms to the mean of their level, plus a penalty for
    each change point. In units of the variance of the noise, the penalty is 12 + 2 ln n for n values. Without
    a shift, a change point reduces the sum by more than 12 in about 1 % of long histories (Andrews 1993,
    sup-Wald statistic); the rest pays for the number of places, and for a variance that is only estimated.

    The noise is estimated from the differences between neighbors, which do not depend on shifts. Outliers are
    first moved to three deviations from the median of their neighbors.

    Args:
        values: The values in order, above 0.

    Returns:
        The levels in order; a single one without change points, and without ruptures (extra ``compare``).

    Example:
        >>> before, after = find_levels([20, 21, 20, 19, 20, 21, 25, 24, 26, 25, 24, 25])
        >>> after.first, round(after.value, 1)
        (6, 24.8)
    """
    logs = [math.log(value) for value in values]
    deviation = _deviation(logs)
    logs = _without_outliers(logs, deviation)
    starts = [0]
    if len(logs) >= MIN_VALUES:
        penalty = (_PENALTY + 2 * math.log(len(logs))) * deviation**2
        starts = _split([one - logs[0] for one in logs], penalty)
    return [
        Level(start, end - 1, math.exp(fmean(logs[start:end])))
        for start, end in pairwise([*starts, len(logs)])
    ]


def _split(values: Sequence[float], penalty: float) -> list[int]:
    """Return the first index of each level."""
    try:
        from ruptures import KernelCPD  # slow to import; it has no wheels for Python 3.14
    except ModuleNotFoundError as error:
        if error.name != "ruptures":
            raise
        return [0]
    search = KernelCPD(kernel="linear", min_size=MIN_LEVEL_VALUES).fit(np.asarray(values).reshape(-1, 1))
    ends = search.predict(pen=penalty) or []
    return [0, *map(int, ends[:-1])]


def shifts_between(levels: Sequence[Level]) -> list[Shift]:
    """Return the shifts between consecutive levels."""
    return [Shift(after.first, after.value / before.value - 1) for before, after in pairwise(levels)]


def _deviation(logs: Sequence[float]) -> float:
    """Return the standard deviation of the noise, from the differences between neighbours."""
    differences = [abs(after - before) for before, after in pairwise(logs)]
    deviation = _DEVIATION_OF_MAD * median(differences) / math.sqrt(2) if differences else 0.0
    return max(deviation, _LOWEST_DEVIATION)


def _without_outliers(logs: Sequence[float], deviation: float) -> list[float]:
    """Return the values, each at most some deviations from the median of its neighbours."""
    allowed, result = _OUTLIER_DEVIATIONS * deviation, []
    for place, value in enumerate(logs):
        begin = min(max(place - _WINDOW // 2, 0), max(len(logs) - _WINDOW, 0))
        center = median(logs[begin : begin + _WINDOW])
        result.append(min(max(value, center - allowed), center + allowed))
    return result
