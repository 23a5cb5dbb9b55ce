"""Streams: every record is delivered to any number of subscribers, in any thread and on any event loop.

The in-memory store logs its records while there are subscribers. Other aggregators are polled for changes
with the methods of their Protocol. One thread publishes, and each subscriber has a bounded buffer.
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
    """Return a publisher of an aggregator's metrics.

    It reads the record log of an in-memory aggregator's store, and polls any other aggregator.
    """
    if isinstance(aggregator, load_adapter("in_memory.aggregator")):
        in_memory: Any = aggregator
        return Publisher(StoreSource(in_memory.store))
    return Publisher(PollingSource(aggregator))
