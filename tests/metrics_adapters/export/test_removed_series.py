"""Receivers of increments end with the true totals, whatever is removed, expires and is recorded again."""

from __future__ import annotations

import gc
import threading
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.otlp import OtlpExporter
from metrics_adapters.statsd import StatsdEndpoint
from metrics_framework import MetricsSystem, OutputError
from metrics_framework.clock import ManualClock
from metrics_framework.export.endpoints import make_endpoint
from metrics_framework.recording import Store, removals

NAMES = ("orders", "sizes", "load")
TAGS = ("a", "b")
SERIES = st.tuples(st.sampled_from(NAMES), st.sampled_from(TAGS))
EVENT = st.one_of(
    st.tuples(st.just("record"), SERIES, st.integers(1, 9)),
    st.tuples(st.just("record bound"), SERIES, st.integers(1, 9)),
    st.tuples(st.just("remove series"), SERIES),
    st.tuples(st.just("remove name"), SERIES),
    st.tuples(st.just("expire"), st.integers(1, 200)),
    st.tuples(st.just("read")),
    st.tuples(st.just("export"), st.sampled_from([None, 0, 1, 2])),
)


class Statsd(StatsdEndpoint):
    """A StatsD endpoint whose daemon is a dictionary, and can refuse a datagram."""

    def __init__(self):
        url, _ = make_endpoint("statsd://127.0.0.1:1?mtu=100")
        super().__init__(url)
        self.totals = defaultdict(int)
        self.refuse_at = None

    def _send(self, datagrams, deadline):
        for number, datagram in enumerate(datagrams):
            if number == self.refuse_at:
                raise ConnectionRefusedError
            for line in datagram:
                for text in line.text.split("\n"):
                    path, _, number_and_kind = text.partition(":")
                    added, kind = number_and_kind.split("|")
                    if kind == "c":
                        self.totals[path] += float(added)
            self._remember(datagram)

    def total(self, name, tag):
        """Return the numbers of a series."""
        fields = {
            "orders": (f"orders.tag={tag}",),
            "sizes": (f"sizes.tag={tag}.count", f"sizes.tag={tag}.sum"),
            "load": (f"load.tag={tag}.operations_successes", f"load.tag={tag}.operations_failures"),
        }[name]
        return [self.totals[field] for field in fields]


class Otlp(OtlpExporter):
    """An OTLP exporter whose receiver sums up the deltas, and can refuse a message."""

    def __init__(self):
        super().__init__("http://127.0.0.1:1", temporality="delta")
        self.totals = defaultdict(int)
        self.intervals = defaultdict(list)
        self.refuse_at = None
        self._connect = lambda *_: self

    def close(self):
        """Keep the totals."""

    def send(self, message, seconds):
        """Receive a message."""
        if self.refuse_at is not None:
            raise OutputError("refused")
        for scope in ExportMetricsServiceRequest.FromString(message).resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    tags = {pair.key: pair.value.string_value for pair in point.attributes}
                    key = (metric.name, tags.get("tag"), tags.get("outcome"))
                    self.intervals[key].append((point.start_time_unix_nano, point.time_unix_nano))
                    if metric.WhichOneof("data") == "sum":
                        self.totals[key] += point.as_int
                    else:
                        self.totals[key] += point.count
                        self.totals[(*key, "sum")] += point.sum
                        assert sum(point.positive.bucket_counts) + point.zero_count == point.count
        return ""

    def total(self, name, tag):
        """Return the numbers of a series."""
        keys = {
            "orders": [("orders", tag, None)],
            "sizes": [("sizes", tag, None), ("sizes", tag, None, "sum")],
            "load": [("load.operations", tag, "success"), ("load.operations", tag, "failure")],
        }[name]
        return [self.totals[key] for key in keys]


class Application:
    """Records, and knows the true totals."""

    def __init__(self, output):
        self.clock = ManualClock()
        self.store = Store(self.clock, expire_after=timedelta(seconds=100))
        self.collector = InMemoryCollector(self.store)
        self.output = output
        self.system = MetricsSystem(collector=self.collector, outputs=[output])
        self.bound = {
            (name, tag): self.collector.counter(name, {"tag": tag})
            if name == "orders"
            else self.collector.histogram(name, {"tag": tag})
            for name in NAMES[:2]
            for tag in TAGS
        }
        self.true = {(name, tag): [0] if name == "orders" else [0, 0] for name in NAMES for tag in TAGS}

    def run(self, events):
        """Run events, and a last export."""
        for kind, *arguments in events:
            self.clock.advance(1)
            getattr(self, kind.replace(" ", "_"))(*arguments)
        self.clock.advance(1)
        self.export(None)

    def record(self, series, number):
        """Record by name."""
        (name, tag), tags = series, {"tag": series[1]}
        if name == "orders":
            self.collector.record_counter(name, number, tags)
            self.true[series][0] += number
        elif name == "sizes":
            self.collector.record_histogram(name, number, tags)
            self.true[series] = [self.true[series][0] + 1, self.true[series][1] + number]
        else:
            error_type = "Refused" if number > 6 else None
            self.store.record_operation(name, tags, number, error_type)
            self.true[name, tag][number > 6] += 1

    def record_bound(self, series, number):
        """Record with a bound instrument."""
        if series[0] == "orders":
            self.bound[series].add(number)
            self.true[series][0] += number
        elif series[0] == "sizes":
            self.bound[series].observe(number)
            self.true[series] = [self.true[series][0] + 1, self.true[series][1] + number]
        else:
            self.record(series, number)

    def remove_series(self, series):
        """Remove a series."""
        self.store.remove(series[0], {"tag": series[1]})
        if series[0] == "load":
            self.store._outcomes.remove("load", {"tag": series[1]})

    def remove_name(self, series):
        """Remove a name."""
        self.store.remove(series[0])

    def expire(self, seconds):
        """Let series become idle."""
        self.clock.advance(seconds)

    def read(self):
        """Read as a scrape or a dashboard does."""
        self.store.readings()

    def export(self, refuse_at):
        """Export; the receiver may refuse a part."""
        self.output.refuse_at = refuse_at
        with suppress(OutputError):
            self.output.export(self.system)


@pytest.mark.parametrize("output", [Statsd, Otlp])
@settings(max_examples=60)
@given(events=st.lists(EVENT, max_size=40))
def test_receivers_of_increments_end_with_the_true_totals(output, events):
    """After any records, removals, expiry and failed exports, the last export completes each total."""
    application = Application(output())
    application.run(events)
    found = {series: application.output.total(*series) for series in application.true}
    assert found == application.true


@settings(max_examples=30)
@given(events=st.lists(EVENT, max_size=40))
def test_deltas_follow_each_other(events):
    """The intervals of the deltas of a series do not overlap."""
    application = Application(Otlp())
    application.run(events)
    for intervals in application.output.intervals.values():
        assert all(start <= end for start, end in intervals)
        assert all(end <= start for (_, end), (start, _) in pairwise(intervals))


def test_a_sum_of_negative_values_is_exact():
    """Negative values lower the sum of a distribution in StatsD, and are not taken for a removal."""
    application = Application(Statsd())
    for value in (5, -2):
        application.collector.record_histogram("sizes", value, {"tag": "a"})
        application.export(None)
    assert application.output.total("sizes", "a") == [2, 3]


@pytest.mark.parametrize("output", [Statsd, Otlp])
def test_what_waits_for_an_export_is_bounded(output, monkeypatch):
    """Without exports, removed series beyond a limit share tag values; totals are exact."""
    monkeypatch.setattr(removals, "MAX_REMOVED_SERIES", 50)
    monkeypatch.setattr(removals, "MAX_UNMERGED_REMOVALS", 10)
    application = Application(output())
    for number in range(1_000):
        tags = {"tag": str(number)}
        application.collector.record_counter("orders", 2, tags)
        application.store.remove("orders", tags)
        application.collector.record_counter(f"name{number}", 1, {"tag": "x"})
        application.store.remove(f"name{number}")
        if number % 100 == 0:
            application.export(0)
    (tracked,) = application.store._state.live_consumers()
    kept = tracked._last
    assert len(kept.exported) + len(kept.later) + len(tracked.unmerged) <= 2 * 50 + 10 + 2
    application.export(None)
    totals = application.output.totals
    orders = {key: total for key, total in totals.items() if "orders" in str(key)}
    assert sum(orders.values()) == 2_000
    assert sum(totals.values()) == 3_000
    assert max(orders.values()) > 1_000


def test_without_an_exporter_of_increments_nothing_is_kept():
    """Removed series are kept for exporters only, and no longer than these exist."""
    output = Statsd()
    application = Application(output)
    assert len(application.store._state.live_consumers()) == 1
    store = application.store
    del output, application
    gc.collect()
    assert store._state.live_consumers() == []


def test_removals_in_other_threads_lose_nothing():
    """Two threads record and remove while a third one exports."""
    application = Application(Statsd())
    collector, store = application.collector, application.store

    def work(tag):
        for number in range(2_000):
            collector.record_counter("orders", 1, {"tag": tag})
            if number % 3 == 0:
                store.remove("orders", {"tag": "a"})

    threads = [threading.Thread(target=work, args=(tag,)) for tag in TAGS]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        application.export(None)
    application.export(None)
    assert [application.output.total("orders", tag) for tag in TAGS] == [[2_000], [2_000]]


def test_cumulative_numbers_of_a_series_that_came_back_have_a_new_start():
    """A series that came back between two exports started with its first new record, also if it is larger."""
    output = Otlp()
    output._temporality = "cumulative"
    application = Application(output)
    start = application.clock.time_ns()
    application.run([("record", ("orders", "a"), 5), ("export", None)])
    application.run([("remove series", ("orders", "a")), ("record bound", ("orders", "a"), 7)])
    seconds = [begin - start for begin, _ in output.intervals["orders", "a", None]]
    assert [second // 10**9 for second in seconds] == [0, 0, 5]
