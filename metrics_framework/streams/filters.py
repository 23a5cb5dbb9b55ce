"""Which metrics a stream is about, and which share of their records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.validation import plain_tags
from metrics_framework.values import MetricType

_SPREAD = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: its multiples lie evenly, also those of every n-th sequence number."""

_ALL = (1 << 64) - 1


@dataclass(frozen=True)
class StreamFilter:
    """Which metrics a stream is about.

    Attributes:
        name: A name, or a pattern like ``http.*``.
        metric_type: One type; ``None`` for all.
        tags: Tags that a series must carry.
        sample_rate: The share of records; the sequence number alone decides, so that the same rate chooses
            the same records for everybody, also for who comes back.
    """

    name: str = "*"
    metric_type: MetricType | None = None
    tags: frozenset[tuple[str, str]] = frozenset()
    sample_rate: float = 1.0

    @classmethod
    def parse(cls, filters: Mapping[str, Any] | None) -> StreamFilter:
        """Check the filters of `AsyncMetricsSystem.metrics_stream`.

        Args:
            filters: ``name``, ``type`` (a `MetricType` or its value), ``tags`` and ``sample_rate``.

        Raises:
            InvalidInputError: If a filter is unknown or its value is not allowed.
        """
        if filters is None:
            return cls()
        if not isinstance(filters, Mapping):
            raise InvalidInputError(f"filters={filters!r} is not a dict like {{'name': 'http.*'}}")
        known = ("name", "type", "tags", "sample_rate")
        for key in filters:
            if key not in known:
                raise InvalidInputError(f"unknown filter {key!r}.{nearest(str(key), known)}")
        name, tags = filters.get("name", "*"), filters.get("tags", {})
        if not isinstance(name, str):
            raise InvalidInputError(f"filter name={name!r} is not a pattern like 'http.*'")
        if not isinstance(tags, dict):
            raise InvalidInputError(f"filter tags={tags!r} is not a dict of tag to value")
        return cls(
            name,
            _metric_type(filters.get("type")),
            frozenset(plain_tags(tags).items()),
            _sample_rate(filters.get("sample_rate", 1.0)),
        )

    @property
    def takes_all(self) -> bool:
        """Whether every series matches."""
        return self.name == "*" and self.metric_type is None and not self.tags

    def matches(self, name: str, metric_type: MetricType, tags: Mapping[str, str]) -> bool:
        """Say whether a series is one of them."""
        return (
            self.metric_type in (None, metric_type)
            and tags.items() >= self.tags
            and (name == self.name or fnmatchcase(name, self.name))
        )

    def samples(self, sequence: int) -> bool:
        """Say whether a record is in the sample."""
        return (sequence * _SPREAD & _ALL) < self.sample_rate * (1 << 64)


def _metric_type(metric_type: Any) -> MetricType | None:
    try:
        return None if metric_type is None else MetricType(metric_type)
    except ValueError:
        types = ", ".join(repr(known.value) for known in MetricType)
        raise InvalidInputError(f"filter type={metric_type!r} is not one of {types}") from None


def _sample_rate(rate: Any) -> float:
    if rate.__class__ not in (int, float) or not math.isfinite(rate) or not 0 < rate <= 1:
        raise InvalidInputError(f"filter sample_rate={rate!r} is not a number above 0 and up to 1")
    return float(rate)
