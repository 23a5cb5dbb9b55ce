"""Events of a stream, the series that they belong to, and the filters that select them.

Sources produce chunks of events. An event is created when a subscriber takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.exposition.formats import to_plain
from metrics_framework.runtime.strict_json import json_encoder
from metrics_framework.validation import plain_tags
from metrics_framework.values import MetricType, MetricValue

MAX_CACHED_FILTERS = 64
"""For how many filters a series remembers whether they match it."""

_encode = json_encoder(separators=(",", ":"))

_SAMPLE_STEP = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio. Its multiples are spread evenly, even for every n-th sequence number."""

_UINT64_MAX = (1 << 64) - 1


class StreamEvent:
    """One event of a stream. All subscribers share it, so do not change it.

    Attributes:
        sequence: The number of the event in the system's stream. Consecutive events have consecutive numbers.
        value: The metric's value with this record included.
        dropped: How many events the subscriber lost directly before this one.
    """

    __slots__ = ("_encoded", "_origin", "dropped", "sequence", "value")

    def __init__(self, sequence: int, value: MetricValue) -> None:
        self.sequence = sequence
        self.value = value
        self.dropped = 0
        self._origin = self
        self._encoded: bytes | None = None

    def __repr__(self) -> str:
        return f"StreamEvent(sequence={self.sequence}, value={self.value!r}, dropped={self.dropped})"

    def json(self) -> bytes:
        """Return the event as a JSON object. It is encoded once for all subscribers.

        Its keys are ``name``, ``type``, ``value``, ``unit``, ``timestamp``, ``tags``, ``metadata`` and
        ``sequence``. A number that JSON cannot represent, such as infinity, is ``null``.
        """
        origin = self._origin
        if origin._encoded is None:
            origin._encoded = _encode({**to_plain(self.value), "sequence": self.sequence}).encode()
        return origin._encoded

    def with_dropped(self, dropped: int) -> StreamEvent:
        """Return a copy for a subscriber that lost events directly before this one."""
        event = StreamEvent(self.sequence, self.value)
        event.dropped = dropped
        event._origin = self._origin
        return event


class StreamSeries:
    """The series that events belong to.

    Attributes:
        key: Equal for the same series.
        tags: The tags of the series, with the store's constant tags.
    """

    __slots__ = ("_is_matched", "is_operation", "key", "metric_type", "name", "tags")

    def __init__(
        self, name: str, metric_type: MetricType, tags: Mapping[str, str], is_operation: bool
    ) -> None:
        self.name = name
        self.metric_type = metric_type
        self.tags = dict(tags)
        self.is_operation = is_operation
        self.key = (name, metric_type, is_operation, tuple(sorted(self.tags.items())))
        self._is_matched: dict[StreamFilter, bool] = {}

    def is_matched_by(self, stream_filter: StreamFilter) -> bool:
        """Return whether a filter matches the series."""
        is_matched = self._is_matched.get(stream_filter)
        if is_matched is None:
            if len(self._is_matched) >= MAX_CACHED_FILTERS:
                self._is_matched.clear()
            is_matched = stream_filter.matches(self.name, self.metric_type, self.tags)
            self._is_matched[stream_filter] = is_matched
        return is_matched


class EventChunk(Protocol):
    """Consecutive events of one series, created when they are indexed.

    Attributes:
        series: The series.
        first: The sequence number of the first event, set when the chunk is published.
    """

    series: StreamSeries
    first: int

    @property
    def step(self) -> int | float | None:
        """The sum of the records of a counter; ``None`` for another metric, or if it is not known."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> StreamEvent: ...


@dataclass(frozen=True)
class StreamFilter:
    """Selects the series of a stream, and a sample of their records.

    Attributes:
        name: A name, or a pattern like ``http.*``.
        metric_type: One type; ``None`` for all.
        tags: Tags that a series must have.
        sample_rate: The share of records. The sequence number alone decides, so a rate selects the same
            records for every subscriber, including one that resumes.
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
            raise InvalidInputError(f"filter name={name!r} is not a string: pass a pattern like 'http.*'")
        if not isinstance(tags, dict):
            raise InvalidInputError(f"filter tags={tags!r} is not a dict like {{'region': 'north'}}")
        return cls(
            name,
            _metric_type(filters.get("type")),
            frozenset(plain_tags(tags).items()),
            _sample_rate(filters.get("sample_rate", 1.0)),
        )

    @property
    def matches_all(self) -> bool:
        """Whether every series matches."""
        return self.name == "*" and self.metric_type is None and not self.tags

    def matches(self, name: str, metric_type: MetricType, tags: Mapping[str, str]) -> bool:
        """Return whether a series matches."""
        return (
            self.metric_type in (None, metric_type)
            and tags.items() >= self.tags
            and (name == self.name or fnmatchcase(name, self.name))
        )

    def is_in_sample(self, sequence: int) -> bool:
        """Return whether the record with a sequence number is in the sample."""
        return (sequence * _SAMPLE_STEP & _UINT64_MAX) < self.sample_rate * (1 << 64)


def _metric_type(metric_type: Any) -> MetricType | None:
    try:
        return None if metric_type is None else MetricType(metric_type)
    except ValueError:
        types = ", ".join(repr(known.value) for known in MetricType)
        raise InvalidInputError(f"filter type={metric_type!r} is not one of {types}") from None


def _sample_rate(rate: Any) -> float:
    if rate.__class__ not in (int, float) or not 0 < rate <= 1:
        raise InvalidInputError(f"filter sample_rate={rate!r} is not a number above 0 and up to 1")
    return float(rate)
