"""What a store answers with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.traces import OutcomeTrace, Summary
from metrics_framework.recording.windows import Window
from metrics_framework.values import MetricType


@dataclass(frozen=True)
class Failure:
    """One failure of an operation, as it was reported."""

    error_type: str
    metadata: dict[str, Any]
    timestamp: datetime


class RawFailure(NamedTuple):
    """A failure as it is kept: making its `Failure` is left to who asks."""

    error_type: str
    metadata: dict[str, Any]
    time_ns: int


@dataclass(frozen=True)
class SeriesReading:
    """One series since the start: what it is and its summary at the moment of reading.

    Attributes:
        name: The metric's or operation's name.
        metric_type: What kind of number it is.
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
    """How an operation ended in a stretch of time, in all or for one set of tags."""

    name: str
    tags: dict[str, str]
    successes: int
    failures: dict[str, int]
    success_rate: float
    seconds: float

    @property
    def count(self) -> int:
        """How many outcomes there were."""
        return self.successes + sum(self.failures.values())

    @classmethod
    def of(cls, name: str, tags: dict[str, str], window: Window[OutcomeTrace]) -> OutcomeReading:
        """Return what a window holds."""
        trace = window.trace
        return cls(name, tags, trace.successes, trace.failures, trace.success_rate, window.seconds)
