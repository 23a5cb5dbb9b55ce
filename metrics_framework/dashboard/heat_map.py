"""Heat maps: the counts of an operation's durations by time and by duration."""

from __future__ import annotations

import math
from collections.abc import Iterable

from metrics_framework.dashboard.metric_views import MAX_FLOAT
from metrics_framework.recording import Distribution
from metrics_framework.recording.distribution import Buckets
from metrics_framework.runtime.cooperative import yield_gil

MAX_HEAT_ROWS = 24
"""The maximum number of rows: a page shows it in about 300 pixels."""

Cell = list[float]


def heat_map_cells(intervals: Iterable[tuple[float, float, Distribution | None]]) -> list[Cell]:
    """Return the cells that have values: start, end, lower bound, upper bound and number of values.

    The bounds are those of buckets of the distributions, some of which are taken together, so that counts are
    exact: a row holds the values above its lower bound and up to its upper bound. All rows are equally wide
    on a logarithmic axis. Values of zero, if there are any, are in a row of their own from 0 on.

    Args:
        intervals: The start, end and distribution of each column.
    """
    columns: list[tuple[float, float, Buckets]] = []
    for start, end, distribution in intervals:
        if distribution is not None and distribution.count:
            yield_gil()
            columns.append((start, end, distribution.buckets))
    positive = [(buckets.scale, buckets.positive) for _, _, buckets in columns if buckets.positive.packed]
    has_zeros = any(buckets.zeros or buckets.negative.packed for _, _, buckets in columns)
    scale = min((scale for scale, _ in positive), default=0)
    low = min((counts.low >> own - scale for own, counts in positive), default=0)
    high = max((counts.high >> own - scale for own, counts in positive), default=0)
    while high - low + 1 > MAX_HEAT_ROWS - has_zeros:
        scale, low, high = scale - 1, low >> 1, high >> 1
    cells: list[Cell] = []
    for start, end, buckets in columns:
        yield_gil()
        zeros = buckets.zeros + sum(buckets.negative.counts())
        if zeros:
            cells.append([start, end, 0.0, _bound(low, scale), zeros])
        rows: dict[int, int] = {}
        for index, count in buckets.positive.items():
            row = index >> buckets.scale - scale
            rows[row] = rows.get(row, 0) + count
        for row, count in rows.items():
            cells.append([start, end, _bound(row, scale), _bound(row + 1, scale), count])
    return cells


def _bound(index: int, scale: int) -> float:
    exponent = math.ldexp(index, -scale)
    return 2.0**exponent if exponent < 1024 else MAX_FLOAT
