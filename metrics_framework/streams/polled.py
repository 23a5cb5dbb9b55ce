"""The stream of parts that somebody else wrote: their aggregator is asked again and again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from metrics_framework.protocols import MetricsAggregator
from metrics_framework.streams.events import Run, StreamEvent, Subject
from metrics_framework.values import MetricValue

POLL_SECONDS = 0.25
"""How often the aggregator is asked."""


class Polled:
    """Everything that changes, by the Protocols alone: several records between two looks are one change.

    Args:
        aggregator: What is asked.
    """

    def __init__(self, aggregator: MetricsAggregator) -> None:
        self._aggregator = aggregator
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._seen: dict[object, MetricValue] = {}
        self._due = 0.0

    def start(self, sequence: int) -> int:
        """Look at what there is, which is left out.

        Args:
            sequence: The number of the last event.

        Returns:
            1 where there were events before: how many changes nobody looked at is not known.
        """
        self._seen = self._look()
        return 1 if sequence else 0

    def stop(self) -> None:
        """Forget what was seen."""
        self.forget()

    def collect(self, *, now: bool) -> tuple[list[Run], int]:
        """Return what has changed since the last look.

        Args:
            now: Whether to look in any case; else only where the last look is long enough ago.

        Returns:
            The changes, and zero, as nothing is lost.
        """
        if not now and time.monotonic() < self._due:
            return [], 0
        found = self._look()
        self._due = time.monotonic() + POLL_SECONDS
        seen, self._seen = self._seen, found
        changes: list[Run] = [
            PolledRun(value)
            for series, value in found.items()
            if series not in seen or _has_changed(seen[series], value)
        ]
        return changes, 0

    def _look(self) -> dict[object, MetricValue]:
        return _by_series(self._aggregator.get_metrics_by_tag({}))


class PolledRun:
    """One change."""

    __slots__ = ("_event", "_value", "first", "subject")

    def __init__(self, value: MetricValue) -> None:
        self.subject = _subject(value)
        self.first = 0
        self._value = value
        self._event: StreamEvent | None = None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> StreamEvent:
        if self._event is None:
            self._event = StreamEvent(self.first, self._value)
        return self._event


def _subject(value: MetricValue) -> Subject:
    return Subject(value.name, value.metric_type, value.tags, bool(value.metadata.get("operation")))


def _by_series(values: Iterable[MetricValue]) -> dict[object, MetricValue]:
    return {_subject(value).key: value for value in values}


def _has_changed(before: MetricValue, after: MetricValue) -> bool:
    # A rate falls all by itself as time goes by; only a new event is a change.
    if "count" in after.metadata:
        return bool(before.metadata.get("count") != after.metadata["count"])
    return before.value != after.value
