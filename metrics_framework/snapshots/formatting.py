"""Measurements as people read them: three significant digits, with the unit that their key implies."""

from __future__ import annotations

import math

from metrics_framework.snapshots.keys import parse_flat_key
from metrics_framework.values import MetricUnit

_UNIT_SUFFIXES = {
    MetricUnit.MEGABYTES: " MB",
    MetricUnit.PERCENT: " %",
    MetricUnit.OPERATIONS_PER_SECOND: "/s",
}


def format_duration(milliseconds: float) -> str:
    """Format a duration with three significant digits, in µs, ms or s.

    Example:
        >>> format_duration(0.01234), format_duration(12.34), format_duration(1234.5), format_duration(90_000)
        ('12.3 µs', '12.3 ms', '1.23 s', '90 s')
    """
    rounded = _to_three_digits(milliseconds)  # 999.7 ms is 1 s
    if rounded < 1:
        return f"{format_number(milliseconds * 1e3)} µs"
    if rounded < 1e3:
        return f"{format_number(milliseconds)} ms"
    return f"{format_number(milliseconds / 1e3)} s"


def format_number(number: float) -> str:
    """Format a number with three significant digits, or as an integer with thousands separators.

    Example:
        >>> format_number(0.98765), format_number(1234567.0), format_number(3)
        ('0.988', '1,234,567', '3')
    """
    if not math.isfinite(number):
        return str(number)
    if number < 100:
        number = _to_three_digits(number)  # 99.96 is 100, not 100.0
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:#.3g}"


def format_count(number: int, noun: str) -> str:
    """Format a number of things: ``1 run``, ``1,234 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(number: float) -> str:
    """Format a number of bytes with three significant digits; 1 MB is 10^6 bytes.

    Example:
        >>> format_bytes(512), format_bytes(26_377_000), format_bytes(80e9)
        ('512 B', '26.4 MB', '80 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if _to_three_digits(number) < 1e3:
            return f"{format_number(number)} {unit}"
        number /= 1e3
    return f"{format_number(number)} TB"


def format_measurement(key: str, number: float) -> str:
    """Format a measurement of a snapshot with the unit that its flat key implies.

    Example:
        >>> format_measurement("latency.p95", 12.34), format_measurement("custom.jobs", 3)
        ('12.3 ms', '3')
    """
    unit = parse_flat_key(key).unit
    if unit is MetricUnit.MILLISECONDS:
        return format_duration(number)
    return format_number(number) + _UNIT_SUFFIXES.get(unit, "")


def format_percent(share: float) -> str:
    """Format a share in percent, with three significant digits at most.

    Example:
        >>> format_percent(0.05), format_percent(0.0823), format_percent(1.5), format_percent(12.3456)
        ('5 %', '8.23 %', '150 %', '1,235 %')
    """
    percent = share * 100
    if abs(percent) >= 1e6:
        return f"{percent:.1e} %"
    return f"{format_number(percent)} %"


def format_change(share: float) -> str:
    """Format a change, given as a share of the first value, in percent with its sign.

    Example:
        >>> format_change(0.05), format_change(-0.5), format_change(0), format_change(0.0001)
        ('+5.0 %', '-50.0 %', '0 %', '+0.01 %')
    """
    percent = share * 100
    if percent == 0:
        return "0 %"
    if math.isinf(percent):
        return "no limit"
    if abs(percent) < 0.05:
        return f"{percent:+.1g} %"
    return f"{percent:+,.1f} %" if abs(percent) < 1e6 else f"{percent:+.1e} %"


def _to_three_digits(number: float) -> float:
    return float(f"{number:.3g}")
