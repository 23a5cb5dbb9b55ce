"""Any records, and what every export of them must contain: computed with plain dictionaries."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from metrics_framework import InvalidInputError, MetricsSystem, MetricType, MetricUnit
from metrics_framework.clock import ManualClock
from metrics_framework.exposition.families import exposed_names, family_name, series_labels
from metrics_framework.exposition.names import BASE_UNITS, Escaping
from metrics_framework.recording.exposed_names import Named

Tags = tuple[tuple[str, str], ...]
Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]

COUNTER, GAUGE, HISTOGRAM, TIMER, RATE = (
    MetricType.COUNTER,
    MetricType.GAUGE,
    MetricType.HISTOGRAM,
    MetricType.TIMER,
    MetricType.RATE,
)


class Record(NamedTuple):
    """One record.

    Attributes:
        kind: A metric type, or ``"operation"``: an operation that is timed and tracked.
        name: The name.
        tags: The tags.
        number: The number; for an operation its duration in milliseconds.
        error_type: The error type of an operation that failed, else ``None``.
        unit: A unit to describe the metric with first, or ``None``.
    """

    kind: MetricType | str
    name: str
    tags: Tags
    number: float
    error_type: str | None = None
    unit: MetricUnit | None = None


TEXT = st.text(max_size=6) | st.text(st.sampled_from('ab_.-/: 9é请求\\"\n{},=%#'), max_size=6)
NAME = TEXT.filter(bool) | st.sampled_from(["http.requests", "db.query", "请求数", "错误数", "size_bytes"])
TAGS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=2).map(lambda tags: tuple(sorted(tags.items())))
# Multiples of a quarter: no rounding moves them over a bound of a bucket.
NUMBER = st.integers(-4_000_000, 4_000_000).map(lambda number: number / 4) | st.integers(-1_000, 1_000)
SIZE = st.integers(0, 1 << 60) | NUMBER.map(abs)

RECORDS = st.lists(
    st.one_of(
        st.builds(Record, st.just(COUNTER), NAME, TAGS, SIZE, unit=st.none() | st.sampled_from(MetricUnit)),
        st.builds(Record, st.just(GAUGE), NAME, TAGS, NUMBER, unit=st.none() | st.sampled_from(MetricUnit)),
        st.builds(
            Record, st.just(HISTOGRAM), NAME, TAGS, NUMBER, unit=st.none() | st.sampled_from(MetricUnit)
        ),
        st.builds(Record, st.just(TIMER), NAME, TAGS, NUMBER.map(abs)),
        st.builds(Record, st.just("operation"), NAME, TAGS, NUMBER.map(abs), st.none() | TEXT.filter(bool)),
    ),
    max_size=12,
)


_TEXTS = ["/", "", "a b", 'quoted "text" \\ and\n', "é请求", "x=y,{z}#%s", "9", "a" * 300, "\t\r"]
_NUMBERS = [0, 1, 2.5, 1e-3, 70, 123_456.75, 1 << 40]

VARIED = [
    *(
        Record(COUNTER, f"c{place}.{name}", ((f"t{text}", text),), number)
        for place, (name, text) in enumerate(product(_TEXTS, repeat=2))
        for number in _NUMBERS
    ),
    *(
        Record(GAUGE, f"g{name}", ((f"t{text}", "x"), ("place", text)), sign * number, unit=unit)
        for name, unit in zip(_TEXTS, MetricUnit, strict=True)
        for text, number in zip(_TEXTS, [*_NUMBERS, 7, 8], strict=True)
        for sign in (1, -1)
    ),
    *(
        Record(HISTOGRAM, f"h{name}", (("place", text),), number, unit=unit)
        for name, unit in zip(_TEXTS, MetricUnit, strict=True)
        for text, number in product(_TEXTS, _NUMBERS)
    ),
    *(Record(HISTOGRAM, "signed", (("place", text),), -number) for text, number in product("ab", _NUMBERS)),
    *(Record(TIMER, f"w{name}", (), number) for name, number in product(_TEXTS, _NUMBERS)),
    *(
        Record("operation", f"o{name}", (("place", text),), 5, error_type)
        for name, text, error_type in product(_TEXTS, ["", "/"], [None, "Timeout", *_TEXTS[2:4]])
    ),
    Record(COUNTER, "请求数", (("路由", "/"),), 1),
    Record(COUNTER, "错误数", (("路由", "/"),), 2),
]
"""Records of each type, with unusual names, tags, units and error types."""


class Truth:
    """What a system has accepted.

    Args:
        system: A system whose store refuses names that collide in Prometheus.

    Attributes:
        numbers: The totals of counters and the last values of gauges, by metric and tags.
        values: The values of histograms and timers, those of timers in milliseconds, by metric and tags.
        outcomes: The outcomes of operations, ``None`` for success, by operation and tags.
    """

    def __init__(self, system: MetricsSystem) -> None:
        self.system = system
        self.numbers: dict[tuple[Named, Tags], float] = {}
        self.values: dict[tuple[Named, Tags], list[float]] = {}
        self.outcomes: dict[tuple[Named, Tags], Counter[str | None]] = {}

    def record(self, record: Record) -> None:
        """Record, and remember the record if the system accepts it."""
        kind, name, key, number = record.kind, record.name, record.tags, record.number
        tags, collector = dict(key), self.system.collector
        try:
            if record.unit is not None:
                collector.describe(name, unit=record.unit)
            if kind is COUNTER:
                collector.record_counter(name, number, tags)
                series = Named(name, COUNTER, False), key
                self.numbers[series] = self.numbers.get(series, 0) + number
            elif kind is GAUGE:
                collector.record_gauge(name, number, tags)
                self.numbers[Named(name, GAUGE, False), key] = number
            elif kind is HISTOGRAM:
                collector.record_histogram(name, number, tags)
                self.values.setdefault((Named(name, HISTOGRAM, False), key), []).append(number)
            elif kind is TIMER:
                collector.record_timer(name, number, MetricUnit.MILLISECONDS, tags)
                self.values.setdefault((Named(name, TIMER, False), key), []).append(number)
            else:
                self._operation(record, tags)
        except InvalidInputError:
            pass  # another metric has the name, or a name that Prometheus would not distinguish

    def _operation(self, record: Record, tags: dict[str, str]) -> None:
        store, key = self.system.collector.store, record.tags
        store.find_timing(record.name, tags).elapse(float(record.number))
        self.values.setdefault((Named(record.name, TIMER, True), key), []).append(record.number)
        if record.error_type is None:
            store.find_outcomes(record.name, tags).finish(None)
        else:
            store.fail(record.name, record.error_type, tags=tags)
        outcomes = self.outcomes.setdefault((Named(record.name, RATE, True), key), Counter())
        outcomes[record.error_type] += 1

    def unit(self, named: Named) -> MetricUnit:
        """Return the unit in which the numbers of a metric are recorded."""
        if named.metric_type in (TIMER, RATE):
            return MetricUnit.MILLISECONDS if named.metric_type is TIMER else MetricUnit.COUNT
        return self.system.collector.store.description(named.name).unit or MetricUnit.COUNT

    # -- in Prometheus --

    def samples(self, escaping: Escaping = Escaping.VALUES) -> Samples:
        """Return the samples that Prometheus has, without buckets and the sums of negative values."""
        found: Samples = {}
        for (named, tags), number in self._exposed(self.numbers):
            suffix = "_total" if named.metric_type is COUNTER else ""
            found[self._sample(named, tags, suffix, escaping)] = number / self._per_unit(named)
        for (named, tags), values in self._exposed(self.values):
            found[self._sample(named, tags, "_count", escaping)] = len(values)
            if min(values) >= 0:
                total = math.fsum(values) / self._per_unit(named)
                found[self._sample(named, tags, "_sum", escaping)] = total
        for (named, tags), outcomes in self._exposed(self.outcomes):
            # The failures of an operation begin at 0 together with its successes.
            for error_type, number in {None: 0, "": 0, **outcomes}.items():
                own = {"outcome": "success" if error_type is None else "failure"}
                if error_type:
                    own["error_type"] = series_labels({"x": error_type}, ())["x"]
                key = self._sample(named, tags, "_total", escaping, **own)
                found[key] = found.get(key, 0) + number
        return found

    def buckets(self, escaping: Escaping = Escaping.VALUES) -> dict[tuple[str, Labels], list[float]]:
        """Return the values of each histogram in base units, by the name of its buckets and its labels."""
        return {
            self._sample(named, tags, "_bucket", escaping): [
                value / self._per_unit(named) for value in values
            ]
            for (named, tags), values in self._exposed(self.values)
        }

    def check(
        self,
        found: Iterable[tuple[str, Mapping[str, str], float]],
        escaping: Escaping = Escaping.VALUES,
        *,
        openmetrics: bool = False,
        adds_sums: bool = False,
    ) -> None:
        """Check that samples are exactly the accepted records.

        Args:
            found: The name, labels and value of each sample, in any order.
            escaping: The scheme of the names.
            openmetrics: Whether the format is OpenMetrics, which forbids a count without a sum.
            adds_sums: Whether the receiver writes the sum 0 if there is none, as Prometheus' library for Go.
        """
        samples: Samples = {}
        buckets: dict[tuple[str, Labels], dict[float, float]] = {}
        for name, labels, value in found:
            present = frozenset((label, text) for label, text in labels.items() if text)
            le = labels.get("le") if name.endswith("_bucket") else None
            if le is not None:
                bucket = buckets.setdefault((name, present - {("le", le)}), {})
                assert float(le) not in bucket, (name, labels)
                bucket[float(le)] = value
            else:
                assert (name, present) not in samples, (name, labels)
                samples[name, present] = value
        expected, values = self.samples(escaping), self.buckets(escaping)
        for name, present in values:
            stem = name.removesuffix("_bucket")
            if (f"{stem}_sum", present) not in expected:
                if openmetrics:
                    del expected[f"{stem}_count", present]
                if adds_sums:
                    expected[f"{stem}_sum", present] = 0
        assert samples == pytest.approx(expected, rel=1e-12)
        assert buckets.keys() == values.keys()
        for key, numbers in values.items():
            ordered = sorted(numbers)
            assert max(buckets[key]) == math.inf
            for bound, count in buckets[key].items():
                assert count == bisect_right(ordered, bound), (key, bound)

    def _exposed(self, series: Mapping[tuple[Named, Tags], Any]) -> Iterator[tuple[tuple[Named, Tags], Any]]:
        """Yield the series that are exposed: of two whose tags become the same labels, the first."""
        # A store keeps the series of a metric by their tag names, each in the order of first records.
        by_names: dict[tuple[Named, tuple[str, ...]], list[tuple[tuple[Named, Tags], Any]]] = {}
        for key, value in series.items():
            by_names.setdefault((key[0], tuple(tag for tag, _ in key[1])), []).append((key, value))
        known = set()
        for key, value in (item for items in by_names.values() for item in items):
            labels = self._sample(key[0], key[1], "", Escaping.VALUES)
            if labels not in known:
                known.add(labels)
                yield key, value

    def _sample(
        self, named: Named, tags: Tags, suffix: str, escaping: Escaping, **own: str
    ) -> tuple[str, Labels]:
        reserved = {TIMER: ("le",), HISTOGRAM: ("le",), RATE: ("outcome", "error_type")}
        name = family_name(named, self.unit(named), escaping)
        labels = series_labels(dict(tags), reserved.get(named.metric_type, ()), escaping)
        return f"{name}{suffix}", frozenset((one, text) for one, text in {**labels, **own}.items() if text)

    def _per_unit(self, named: Named) -> float:
        return BASE_UNITS.get(self.unit(named), ("", 1.0))[1]


def exposed(clock: ManualClock, records: list[Record]) -> Truth:
    """Return a system that has got the records, and what it has accepted."""
    system = MetricsSystem(clock=clock)
    system.collector.store.expose(exposed_names)
    truth = Truth(system)
    for record in records:
        truth.record(record)
    return truth
