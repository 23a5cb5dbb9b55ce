"""The results of queries of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from metrics_framework.recording.aggregates import Summary, per_second
from metrics_framework.recording.buckets import BucketCounts
from metrics_framework.recording.engine import Distribution, OutcomeAggregate
from metrics_framework.recording.windows import Window, merge_all
from metrics_framework.values import MetricType, MetricUnit


@dataclass(frozen=True)
class Failure:
    """One failure of an operation, as reported."""

    error_type: str
    metadata: dict[str, Any]
    timestamp: datetime


class RawFailure(NamedTuple):
    """A stored failure. A read creates its `Failure`."""

    error_type: str
    metadata: dict[str, Any]
    time_ns: int


@dataclass(frozen=True)
class SeriesReading:
    """One series since the start, at the moment of reading.

    Attributes:
        name: The metric's or operation's name.
        metric_type: The kind of its numbers.
        tags: The tags of the series.
        summary: Its summary since the start.
        distribution: The values of a histogram or timer.
        buckets: How many of them lie between the bounds of its description, if it has any.
    """

    name: str
    metric_type: MetricType
    tags: dict[str, str]
    summary: Summary
    distribution: Distribution | None = None
    buckets: BucketCounts | None = None


class MetricReading(NamedTuple):
    """A metric, or one half of an operation, since the start. Each series is read once.

    Attributes:
        name: The metric's or operation's name.
        metric_type: The kind of its numbers; outcomes are a rate.
        operation: Whether it is the durations or outcomes of an operation.
        seconds: The time since the start.
        series: The tags of each series, and its records: a `CounterAggregate`, `GaugeAggregate`,
            `Distribution` or `OutcomeAggregate`, from which all of its statistics are computed.
        total: The records of a histogram or timer with those of removed series; ``None`` if there are none.
        unit: The unit of its numbers; outcomes are per second.
    """

    name: str
    metric_type: MetricType
    operation: bool
    seconds: float
    series: Sequence[tuple[dict[str, str], Any]]
    total: Distribution | None = None
    unit: MetricUnit = MetricUnit.COUNT

    @property
    def records(self) -> int:
        """The number of records."""
        if self.total is not None:
            return self.total.records
        return sum(aggregate.records for _, aggregate in self.series)

    @property
    def rate(self) -> float:
        """Records per second."""
        return per_second(self.records, self.seconds)

    def distribution(self) -> Distribution:
        """Return the values of a histogram or timer over all series."""
        if self.total is not None:
            return self.total
        values: Distribution = merge_all((aggregate for _, aggregate in self.series), Distribution.of(()))
        return values


class SeriesDistribution(NamedTuple):
    """The values of one series since the start.

    Attributes:
        name: The metric's or operation's name.
        tags: The tags of the series.
        operation: Whether the name is an operation's.
        distribution: The values; times are in milliseconds.
    """

    name: str
    tags: dict[str, str]
    operation: bool
    distribution: Distribution


@dataclass(frozen=True)
class OutcomeReading:
    """How an operation ended in an interval, for all series together or for some tags."""

    name: str
    tags: dict[str, str]
    successes: int
    failures: dict[str, int]
    success_rate: float
    seconds: float

    @property
    def count(self) -> int:
        """The number of outcomes."""
        return self.successes + sum(self.failures.values())

    @classmethod
    def of(cls, name: str, tags: dict[str, str], window: Window[OutcomeAggregate]) -> OutcomeReading:
        """Return the outcomes of a window."""
        outcomes = window.aggregate
        return cls(name, tags, outcomes.successes, outcomes.failures, outcomes.success_rate, window.seconds)
