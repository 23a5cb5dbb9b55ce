"""What is read of a store, and what is kept of it until the next time."""

from __future__ import annotations

from datetime import timedelta

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.otlp.series import StoreReader
from metrics_framework.recording import Store


def test_what_is_kept_of_a_series_ends_with_it(clock):
    """Attributes are made once for a series, and forgotten with it."""
    store = Store(clock, expire_after=timedelta(minutes=1))
    reader, collector = StoreReader(store), InMemoryCollector(store)
    for user in ("1", "2"):
        collector.increment("orders", {"user": user})
        clock.advance(25)
    first = {reading.attributes: reading for reading in reader.read()}
    clock.advance(30)
    second = {reading.attributes: reading for reading in reader.read()}
    (kept,) = second.values()
    assert len(first) == 2
    assert kept.attributes is first[kept.attributes].attributes
    assert [series.tags for series in reader._attributes] == [{"user": "2"}]
