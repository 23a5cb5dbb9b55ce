"""Streams: what is recorded reaches any number of subscribers, in any thread and on any event loop.

A store logs its records while there are subscribers; other aggregators are polled for changes, by their
Protocols alone. One thread publishes, and each subscriber has a bounded buffer of its own.
"""

from typing import Any

from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.streams.deltas import Deltas
from metrics_framework.streams.events import StreamEvent, StreamFilter
from metrics_framework.streams.publisher import Publisher
from metrics_framework.streams.sources import PollingSource, StoreSource
from metrics_framework.streams.subscription import Subscription, ValueStream

__all__ = [
    "Deltas",
    "PollingSource",
    "Publisher",
    "StoreSource",
    "StreamEvent",
    "StreamFilter",
    "Subscription",
    "ValueStream",
    "publisher_of",
]


def publisher_of(aggregator: MetricsAggregator) -> Publisher:
    """Return the streams of the metrics that an aggregator has.

    The in-memory one has all its numbers in its store, which logs its records; any other one is polled for
    changes.
    """
    if isinstance(aggregator, load_adapter("in_memory.aggregator")):
        in_memory: Any = aggregator
        return Publisher(StoreSource(in_memory.store))
    return Publisher(PollingSource(aggregator))
