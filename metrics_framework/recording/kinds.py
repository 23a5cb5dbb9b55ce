"""The kinds of numbers that are kept: what each is recorded by, folded into and summarized as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metrics_framework.recording import instruments
from metrics_framework.recording.distribution import EMPTY, Distribution
from metrics_framework.recording.traces import (
    CounterTrace,
    GaugeTrace,
    OutcomeTrace,
    Summary,
    summarize_distribution,
)
from metrics_framework.recording.windows import Window
from metrics_framework.values import MetricType


class Kind(NamedTuple):
    """One kind of number.

    Attributes:
        metric_type: What users know it as; outcomes are a rate.
        label: What errors call it.
        series: What is recorded into.
        of: Makes a trace of a batch.
        nothing: The trace of no records.
        summarize: Makes a summary of a window.
    """

    metric_type: MetricType
    label: str
    series: type[instruments.Series]
    of: Callable[..., Any]
    nothing: Any
    summarize: Callable[[Window[Any]], Summary]


COUNTER = Kind(
    MetricType.COUNTER,
    "counter",
    instruments.CounterSeries,
    CounterTrace.of,
    CounterTrace(),
    lambda window: window.trace.summary(window.seconds),
)
GAUGE = Kind(
    MetricType.GAUGE,
    "gauge",
    instruments.GaugeSeries,
    GaugeTrace.of,
    GaugeTrace(),
    lambda window: window.trace.summary(window.start_ns, window.end_ns, window.before),
)
HISTOGRAM = Kind(
    MetricType.HISTOGRAM,
    "histogram",
    instruments.HistogramSeries,
    Distribution.of,
    EMPTY,
    lambda window: summarize_distribution(window.trace, window.seconds),
)
TIMER = Kind(MetricType.TIMER, "timer", instruments.TimerSeries, Distribution.of, EMPTY, HISTOGRAM.summarize)
OUTCOMES = Kind(
    MetricType.RATE,
    "operation",
    instruments.OutcomeSeries,
    OutcomeTrace.of,
    OutcomeTrace(),
    lambda window: {"count": window.trace.records, "seconds": window.seconds},
)


def records(trace: Any) -> int:
    """Return how many records a trace holds."""
    return trace.count if isinstance(trace, Distribution) else int(trace.records)
