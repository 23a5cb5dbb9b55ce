"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from metrics_framework.snapshots import parse_flat_key
from metrics_framework.values import MetricUnit

_UNITS = {
    MetricUnit.MEGABYTES: " MB",
    MetricUnit.PERCENT: " %",
    MetricUnit.OPERATIONS_PER_SECOND: "/s",
}


def duration(milliseconds: float) -> str:
    """Return a duration with three digits that count and the unit that suits it.

    Example:
        >>> duration(0.01234), duration(12.34), duration(1234.5), duration(90_000)
        ('12.3 µs', '12.3 ms', '1.23 s', '90 s')
    """
    rounded = _to_three_digits(milliseconds)  # 999.7 ms are 1 s
    if rounded < 1:
        return f"{plain(milliseconds * 1e3)} µs"
    if rounded < 1e3:
        return f"{plain(milliseconds)} ms"
    return f"{plain(milliseconds / 1e3)} s"


def plain(number: float) -> str:
    """Return a number with three digits that count, and thousands set apart.

    Example:
        >>> plain(0.98765), plain(1234567.0), plain(3)
        ('0.988', '1,234,567', '3')
    """
    if number < 100:
        number = _to_three_digits(number)  # 99.96 is 100, not 100.0
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:#.3g}"


def size(number: float) -> str:
    """Return a number of bytes with three digits that count; 1 MB is 10^6 bytes.

    Example:
        >>> size(512), size(26_377_000), size(80e9)
        ('512 B', '26.4 MB', '80 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if _to_three_digits(number) < 1e3:
            return f"{plain(number)} {unit}"
        number /= 1e3
    return f"{plain(number)} TB"


def measured(key: str, number: float) -> str:
    """Return a measurement of a snapshot with its unit, which its flat key tells.

    Example:
        >>> measured("latency.p95", 12.34), measured("memory_mb", 512), measured("custom.jobs", 3)
        ('12.3 ms', '512 MB', '3')
    """
    unit = parse_flat_key(key).unit
    return duration(number) if unit is MetricUnit.MILLISECONDS else plain(number) + _UNITS.get(unit, "")


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw values as a row of bars, each as high as its share of the largest.

    More values than ``width`` are drawn as the largest of each stretch, so that no outlier is lost.

    Example:
        >>> sparkline([1, 2, 4, 8])
        '▁▂▄█'
    """
    top = max(values, default=0.0)
    columns = min(len(values), width)
    edges = [len(values) * column // max(columns, 1) for column in range(columns + 1)]
    highest = [max(values[start:end]) for start, end in pairwise(edges)]
    bars = "▁▂▃▄▅▆▇█"
    return "".join(
        bars[max(0, math.ceil(value / top * len(bars)) - 1)] if top else bars[0] for value in highest
    )


def _to_three_digits(number: float) -> float:
    return float(f"{number:.3g}")
