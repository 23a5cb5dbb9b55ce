"""Streams of metrics that change, by the Protocols alone: an aggregator is asked again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.values import MetricType, MetricValue

STREAM_SECONDS = 0.25
"""How often a stream looks for what has changed."""


@dataclass(frozen=True)
class StreamFilter:
    """Which metrics a stream is about.

    Attributes:
        name: A pattern like ``http.*``.
        metric_type: One type; ``None`` for all.
        tags: Tags that a series must carry.
    """

    name: str
    metric_type: MetricType | None
    tags: dict[str, str]

    @classmethod
    def parse(cls, filters: Mapping[str, Any]) -> StreamFilter:
        """Check the filters of `AsyncMetricsSystem.metrics_stream`.

        Raises:
            InvalidInputError: If a filter is unknown or its value is not allowed.
        """
        known = ("name", "type", "tags")
        for key in filters:
            if key not in known:
                raise InvalidInputError(f"unknown filter {key!r}.{nearest(str(key), known)}")
        name, tags, metric_type = filters.get("name", "*"), filters.get("tags", {}), filters.get("type")
        if not isinstance(name, str):
            raise InvalidInputError(f"filter name={name!r} is not a pattern like 'http.*'")
        if not isinstance(tags, dict):
            raise InvalidInputError(f"filter tags={tags!r} is not a dict of tag to value")
        try:
            return cls(name, None if metric_type is None else MetricType(metric_type), tags)
        except ValueError:
            types = ", ".join(repr(known.value) for known in MetricType)
            raise InvalidInputError(f"filter type={metric_type!r} is not one of {types}") from None

    def select(self, aggregator: MetricsAggregator) -> list[MetricValue]:
        """Return what matches now."""
        return [
            value
            for value in aggregator.get_metrics_by_tag(self.tags)
            if fnmatchcase(value.name, self.name) and self.metric_type in (None, value.metric_type)
        ]


def stream_changes(
    aggregator: MetricsAggregator, chosen: StreamFilter, has_ended: Callable[[], bool] = lambda: False
) -> AsyncIterator[MetricValue]:
    """Yield the new value of everything that matches and changes after this call.

    What is there now is looked up now, so nothing is missed between the call and the first ``await``. Once
    ``has_ended`` says so, what has changed until then is yielded, and the stream ends.
    """
    return _changes(aggregator, chosen, _by_series(chosen.select(aggregator)), has_ended)


async def _changes(
    aggregator: MetricsAggregator,
    chosen: StreamFilter,
    seen: dict[object, MetricValue],
    has_ended: Callable[[], bool],
) -> AsyncIterator[MetricValue]:
    while True:
        is_last = has_ended()  # asked first, so that the last look is later than the end
        found = _by_series(await asyncio.to_thread(chosen.select, aggregator))
        for series, value in found.items():
            if series not in seen or _has_changed(seen[series], value):
                yield value
        if is_last:
            return
        seen = found
        await asyncio.sleep(STREAM_SECONDS)


def _by_series(values: Iterable[MetricValue]) -> dict[object, MetricValue]:
    return {
        (
            value.name,
            value.metric_type,
            tuple(sorted(value.tags.items())),
            value.metadata.get("operation"),
        ): value
        for value in values
    }


def _has_changed(before: MetricValue, after: MetricValue) -> bool:
    # A rate falls all by itself as time goes by; only a new event is a change.
    if "count" in after.metadata:
        return bool(before.metadata.get("count") != after.metadata["count"])
    return before.value != after.value
