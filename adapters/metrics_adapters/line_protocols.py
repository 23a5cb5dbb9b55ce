"""Shared by the line protocols of StatsD, Graphite and InfluxDB: plain numbers, and reversible names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from metrics_framework.log import LogOnce
from metrics_framework.values import MetricType, MetricValue

DISTRIBUTION = ("count", "sum", "avg", "min", "max", "stddev", "p50", "p90", "p95", "p99")
OUTCOMES = ("count", "successes", "failures", "success_rate")
_GROWING = {"count", "sum", "successes", "failures"}
"""Fields that only grow, like a counter. A sum falls if negative values are recorded."""

_DURATION, _OPERATIONS = "duration_", "operations_"
"""The prefixes of the fields of an operation, whose name may also be that of a metric."""

_FIELDS = frozenset(
    (
        "value",
        *DISTRIBUTION,
        *OUTCOMES,
        *(f"{_DURATION}{field}" for field in DISTRIBUTION),
        *(f"{_OPERATIONS}{field}" for field in OUTCOMES),
    )
)
"""The last part of a path is one of these, or the series has a single number and its name ends otherwise."""

_UNSAFE_IN_PATHS = re.compile(r"[^A-Za-z0-9_-]")
_ESCAPED = "U__"
"""The beginning of an escaped text, as in Prometheus."""


class Number(NamedTuple):
    """One number of a series.

    Attributes:
        field: The name of the number, like ``p95`` or ``duration_p95``, or an empty string if it is the only
            one.
        value: The number, which is finite.
        grows: Whether it is a total since the start.
    """

    field: str
    value: int | float
    grows: bool


def numbers_of(value: MetricValue) -> list[Number]:
    """Return the finite numbers of a series, all since the start.

    A counter or gauge has one. A distribution has those of its summary that the adapter provides. The
    outcomes of an operation are ``count``, ``successes``, ``failures`` and ``success_rate``. The fields of an
    operation begin with ``duration_`` and ``operations_``.
    """
    prefix = field_prefix(value.metric_type, bool(value.metadata.get("operation", False)))
    return [
        Number(
            f"{prefix}{number.field}",
            # Plain types, because a subclass such as numpy's may have another `repr`.
            int(number.value) if isinstance(number.value, int) else float(number.value),
            number.grows,
        )
        for number in _all_of(value)
        if _is_finite(number.value)
    ]


def field_prefix(metric_type: MetricType, is_operation: bool) -> str:
    """Return the beginning of the fields of a series, which is empty for a metric."""
    if not is_operation:
        return ""
    return _OPERATIONS if metric_type is MetricType.RATE else _DURATION


def _all_of(value: MetricValue) -> Iterator[Number]:
    metadata: Mapping[str, Any] = value.metadata
    if value.metric_type in (MetricType.HISTOGRAM, MetricType.TIMER):
        for key in DISTRIBUTION:
            if key in metadata:
                yield Number(key, metadata[key], key in _GROWING)
        if "p95" not in metadata and metadata.get("count") != 0:
            yield Number("p95", value.value, False)
    elif value.metric_type is MetricType.RATE and "count" in metadata and "success_rate" in metadata:
        count, rate = metadata["count"], metadata["success_rate"]
        yield Number("count", count, True)
        if _is_finite(count) and _is_finite(rate) and 0 <= rate <= 1:
            known = metadata.get("successes")
            successes = round(count * rate) if known is None or not _is_finite(known) else known
            yield Number("successes", successes, True)
            yield Number("failures", count - successes, True)
        yield Number("success_rate", rate, False)
    else:
        yield Number("", value.value, value.metric_type is MetricType.COUNTER)


def _is_finite(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest float
        return False


def escaped(text: str, unsafe: re.Pattern[str], *, is_reserved: bool = False) -> str:
    """Return a text without unsafe characters, from which the text can be read back.

    The rule is Prometheus' "values" escaping. A text that is empty, or has an unsafe character, becomes
    ``U__`` and its characters: an underscore is doubled, and an unsafe character is its code point in
    hexadecimal digits between underscores. Any other text stays as it is.

    Args:
        text: The text.
        unsafe: Matches an unsafe character.
        is_reserved: Whether the text must change even if its characters are safe.

    Example:
        >>> escaped("/orders", re.compile(r"[^A-Za-z0-9_-]"))
        'U___2F_orders'
    """
    if text and not is_reserved and not text.startswith(_ESCAPED) and unsafe.search(text) is None:
        return text
    return f"{_ESCAPED}{_changed(unsafe).sub(_code, text)}"


@lru_cache
def _changed(unsafe: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(f"_|{unsafe.pattern}")


def _code(match: re.Match[str]) -> str:
    character = match[0]
    return "__" if character == "_" else f"_{ord(character):X}_"


escaped_name = lru_cache(maxsize=4096)(escaped)
"""`escaped` for names of tags, which are few."""


@lru_cache(maxsize=4096)
def dotted_name(name: str) -> str:
    """Return a name as parts of a path, which consist of letters, digits, ``_`` and ``-``.

    Example:
        >>> dotted_name("http.requests/s")
        'http.U__requests_2F_s'
    """
    return ".".join(escaped(part, _UNSAFE_IN_PATHS) for part in name.split("."))


def tag_parts(tags: Mapping[str, str]) -> str:
    """Return tags as further parts of a path, sorted.

    Example:
        >>> tag_parts({"route": "home", "method": "GET"})
        '.method=GET.route=home'
    """
    if not tags:
        return ""
    parts = [
        f".{escaped_name(tag, _UNSAFE_IN_PATHS)}={text and escaped(text, _UNSAFE_IN_PATHS)}"
        for tag, text in sorted(tags.items())
    ]
    return "".join(parts)


def field_part(name: str, field: str) -> str:
    """Return the last part of a path: the field of a number, with its dot.

    The only number of a series needs none, unless its name could be taken for that of another series with a
    field: a counter ``commits.count`` is ``commits.count.value``.
    """
    if not field and name.rpartition(".")[2] in _FIELDS:
        field = "value"
    return f".{field}" if field else ""


def log_left_out(once: LogOnce, why: str, name: str) -> None:
    """Log that a series is left out of an export, once for each reason.

    Args:
        once: The log of the endpoint.
        why: The reason.
        name: The name of the series.
    """
    once.log("warning", "a series is left out of an export", once_for=why, why=why, name=name)
