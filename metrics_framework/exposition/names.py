"""Names of metrics and labels in Prometheus, their escaping, and the base units.

They follow OpenTelemetry's rules ("Prometheus and OpenMetrics Compatibility"): the base unit (seconds, bytes)
is a suffix, and the name of a counter ends in ``_total``. ASCII characters other than letters, digits and
underscores become underscores for every scraper, so that an update of a server renames no metric.

Names with other characters, such as ``请求数_total``, are written as they are for scrapers that accept UTF-8.
For all others they are escaped by Prometheus' scheme ``values``, which keeps different names different.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from enum import Enum
from functools import lru_cache

from metrics_framework.values import MetricUnit

BASE_UNITS = {
    MetricUnit.SECONDS: ("seconds", 1.0),
    MetricUnit.MILLISECONDS: ("seconds", 1e3),
    MetricUnit.MICROSECONDS: ("seconds", 1e6),
    MetricUnit.BYTES: ("bytes", 1.0),
    MetricUnit.KILOBYTES: ("bytes", 1e-3),
    MetricUnit.MEGABYTES: ("bytes", 1e-6),
    MetricUnit.PERCENT: ("percent", 1.0),
}
"""Unit to its base unit, which is the suffix of a name, and to the number of units in one base unit."""


_UNNAMEABLE = re.compile("[^a-zA-Z0-9_:\x80-\ud7ff\ue000-\U0010ffff]")
"""Matches the characters that become underscores: of ASCII, and those that UTF-8 cannot encode."""

_SEPARATORS = re.compile("[^a-zA-Z0-9:\x80-\ud7ff\ue000-\U0010ffff]+")
"""Matches what becomes one underscore in the name of a metric: these characters, and underscores."""

_RESERVED = re.compile("[0-9]|__|U__")
"""The beginnings that a label cannot have: ``__`` is reserved, and ``U__`` marks escaped names."""


class Escaping(Enum):
    """Prometheus' schemes for names outside the classic character set, by their names in ``Accept``.

    Only `ALLOW_UTF_8` shows such names unchanged. The others show them by the scheme ``values``:
    ``underscores`` and ``dots`` would make different names equal. Classic names are the same in all schemes.
    """

    ALLOW_UTF_8 = "allow-utf-8"
    UNDERSCORES = "underscores"
    DOTS = "dots"
    VALUES = "values"

    def apply(self, name: str) -> str:
        """Return a name as this scheme exposes it.

        Example:
            >>> Escaping.VALUES.apply("请求_total"), Escaping.ALLOW_UTF_8.apply("请求_total")
            ('U___8bf7__6c42___total', '请求_total')
        """
        if self is Escaping.ALLOW_UTF_8 or name.isascii():
            return name
        parts = (f"_{ord(one):x}_" if one > "\x7f" else "__" if one == "_" else one for one in name)
        return f"U__{''.join(parts)}"


def metric_name(
    name: str,
    unit: MetricUnit = MetricUnit.COUNT,
    *,
    counter: bool = False,
    escaping: Escaping = Escaping.VALUES,
) -> str:
    """Return the Prometheus name of a metric.

    Unit and ``_total`` are part of the name that is escaped; the suffixes of samples, such as ``_bucket``,
    follow it, as in Prometheus' library for Go.

    Example:
        >>> metric_name("http.requests", counter=True)
        'http_requests_total'
        >>> metric_name("cache.size", MetricUnit.MEGABYTES)
        'cache_size_bytes'
        >>> metric_name("请求", counter=True)
        'U___8bf7__6c42___total'
        >>> metric_name("请求", counter=True, escaping=Escaping.ALLOW_UTF_8)
        '请求_total'
    """
    result = _SEPARATORS.sub("_", name).rstrip("_") or "_"
    if "0" <= result[0] <= "9":
        result = f"_{result}"
    if counter:
        result = result.removesuffix("_total") or "_"
    suffix = BASE_UNITS.get(unit, ("", 1.0))[0]
    if suffix and not result.endswith(f"_{suffix}"):
        result = f"{result}_{suffix}"
    return escaping.apply(f"{result}_total" if counter else result)


@lru_cache(maxsize=10_000)
def label_name(tag: str, escaping: Escaping = Escaping.VALUES) -> str:
    """Return the Prometheus label name of a tag. Names that begin with ``__`` or ``U__`` are reserved.

    Example:
        >>> label_name("http.route"), label_name("路由"), label_name("路由", Escaping.ALLOW_UTF_8)
        ('http_route', 'U___8def__7531_', '路由')
    """
    result = _UNNAMEABLE.sub("_", tag).replace(":", "_")
    return escaping.apply(f"key_{result.lstrip('_')}" if _RESERVED.match(result) else result)


def tag_labels(
    tags: Mapping[str, str], own_labels: Container[str] = (), escaping: Escaping = Escaping.VALUES
) -> dict[str, str]:
    """Return tags as Prometheus labels.

    Args:
        tags: Tag to value.
        own_labels: Labels of the format itself, such as ``le``. A tag of that name becomes ``exported_le``.
        escaping: How names outside the classic character set are exposed.

    Example:
        >>> tag_labels({"http.route": "/", "le": "here"}, {"le"})
        {'http_route': '/', 'exported_le': 'here'}
    """
    labels: dict[str, str] = {}
    for tag, text in tags.items():
        name = label_name(tag, escaping)
        if name in own_labels:  # Prometheus renames conflicting labels of a target in the same way
            name = f"exported_{name}"
        # Two tags that become the same label share it, as OpenTelemetry specifies.
        labels[name] = f"{labels[name]};{text}" if name in labels else text
    return labels


def in_base_unit(number: float, unit: MetricUnit) -> float:
    """Convert a number of a unit to its base unit. A number beyond the largest float becomes infinite.

    Example:
        >>> in_base_unit(250, MetricUnit.MILLISECONDS)
        0.25
    """
    per_unit = BASE_UNITS.get(unit, ("", 1.0))[1]
    try:
        float(number)  # an integer may be too large
        return number if per_unit == 1 else number / per_unit
    except OverflowError:
        return math.inf if number > 0 else -math.inf
