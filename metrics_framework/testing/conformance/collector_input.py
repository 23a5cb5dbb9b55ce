"""What a `MetricCollector` refuses: bad input is one error, and everything is as it was."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.protocols import MetricCollector
from metrics_framework.testing.conformance.base import (
    BAD_NAMES,
    BAD_NUMBERS,
    BAD_TAGS,
    Contract,
    Parts,
    by_name,
)
from metrics_framework.values import MetricUnit

TYPES = ["counter", "gauge", "histogram", "timer"]


class CollectorInput(Contract, ABC):
    """A collector, how it is read back, and what it refuses."""

    @pytest.fixture
    def collector(self, parts: Parts) -> MetricCollector:
        """Return the collector."""
        assert parts.collector is not None, "make() has to return a collector"
        assert isinstance(parts.collector, MetricCollector)
        return parts.collector

    def summary(self, parts: Parts, name: str, window: timedelta | None = None) -> dict[str, float]:
        """Read a summary back."""
        assert parts.aggregator is not None, "make() has to return an aggregator that sees the collector"
        self.settle(parts)
        return parts.aggregator.get_metric_summary(name, window)

    def series(self, parts: Parts, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Read the value of each series back, by its tags."""
        assert parts.aggregator is not None
        self.settle(parts)
        values = by_name(parts.aggregator.get_metrics_by_tag({}), name)
        return {tuple(sorted(value.tags.items())): value.value for value in values}

    def record(self, collector: MetricCollector, metric_type: str) -> Callable[..., None]:
        """Return the method that records a type of metric."""
        method: Callable[..., None] = getattr(collector, f"record_{metric_type}")
        return method

    def refused(self, call: Callable[[], object], quoted: str = "") -> None:
        """Assert that a call is refused by one error that quotes what was wrong."""
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert quoted in str(caught.value)

    @pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
    @pytest.mark.parametrize("record", ["counter", "gauge", "histogram", "timer"])
    def test_a_bad_number_is_one_error(
        self, collector: MetricCollector, parts: Parts, record: str, bad: Any
    ) -> None:
        """It quotes the value, and every earlier number is still there."""
        method = self.record(collector, record)
        method("m", 2)
        before = self.summary(parts, "m")
        self.refused(lambda: method("m", bad), repr(bad))
        self.refused(lambda: method("m", bad, tags={"new": "series"}), repr(bad))
        assert self.summary(parts, "m") == before
        assert set(self.series(parts, "m")) == {()}

    @pytest.mark.parametrize("record", ["counter", "histogram", "timer"])
    def test_a_boolean_is_no_number(self, collector: MetricCollector, parts: Parts, record: str) -> None:
        """Counters, histograms and timers refuse booleans with an error that quotes them."""
        method = self.record(collector, record)
        method("m", 2)
        before = self.summary(parts, "m")
        for boolean in (True, False):
            self.refused(partial(method, "m", boolean), repr(boolean))
        assert self.summary(parts, "m") == before

    def test_a_gauge_takes_booleans(self, collector: MetricCollector, parts: Parts) -> None:
        """``True`` sets a gauge to 1, ``False`` to 0."""
        for boolean, number in ((True, 1), (False, 0), (True, 1)):
            collector.record_gauge("m", boolean)
            self.known("gauge", self.summary(parts, "m"), last=number)

    @pytest.mark.parametrize("record", ["counter", "timer"])
    def test_what_only_grows_takes_nothing_negative(
        self, collector: MetricCollector, parts: Parts, record: str
    ) -> None:
        """A negative step or duration is an error that quotes it."""
        method = self.record(collector, record)
        method("m", 2)
        before = self.summary(parts, "m")
        self.refused(lambda: method("m", -1), "-1")
        assert self.summary(parts, "m") == before

    @pytest.mark.parametrize("bad", BAD_NAMES, ids=repr)
    def test_a_name_is_a_text(self, collector: MetricCollector, bad: Any) -> None:
        """An empty name, or what is no string, is an error that quotes it."""
        calls: list[Callable[[], object]] = [
            lambda: collector.record_counter(bad),
            lambda: collector.record_gauge(bad, 1),
            lambda: collector.record_histogram(bad, 1),
            lambda: collector.record_timer(bad, 1),
            lambda: collector.increment(bad),
            lambda: collector.decrement(bad),
        ]
        for call in calls:
            self.refused(call, repr(bad))

    @pytest.mark.parametrize("bad", BAD_TAGS, ids=repr)
    def test_tags_are_a_mapping_of_names(self, collector: MetricCollector, parts: Parts, bad: Any) -> None:
        """Anything else is an error, and nothing is recorded."""
        for metric_type in TYPES:
            self.record(collector, metric_type)(metric_type, 1)
        calls: list[Callable[[], object]] = [
            lambda: collector.record_counter("counter", 1, bad),
            lambda: collector.record_gauge("gauge", 1, bad),
            lambda: collector.record_histogram("histogram", 1, bad),
            lambda: collector.record_timer("timer", 1, tags=bad),
            lambda: collector.increment("counter", bad),
            lambda: collector.decrement("gauge", bad),
        ]
        for call in calls:
            self.refused(call)
        for metric_type in TYPES:
            assert self.series(parts, metric_type) == {(): pytest.approx(1, rel=self.quantile_error)}

    @pytest.mark.parametrize("first", TYPES)
    def test_a_name_is_of_one_type(self, collector: MetricCollector, parts: Parts, first: str) -> None:
        """Another type is an error that says which it is, and the numbers stay."""
        self.record(collector, first)("m", 2)
        before = self.summary(parts, "m")
        for other in set(TYPES) - {first}:
            self.refused(partial(self.record(collector, other), "m", 3), first)
        assert self.summary(parts, "m") == before

    @pytest.mark.parametrize("kind", ["histogram", "timer"])
    def test_a_distribution_has_no_steps(self, collector: MetricCollector, parts: Parts, kind: str) -> None:
        """To increment or decrement one is an error, and changes nothing."""
        self.record(collector, kind)("m", 1)
        before = self.summary(parts, "m")
        for step in (collector.increment, collector.decrement):
            self.refused(partial(step, "m"))
        assert self.summary(parts, "m") == before

    def test_what_was_refused_leaves_no_trace(self, collector: MetricCollector, parts: Parts) -> None:
        """A name of which nothing was recorded is unknown, and free for any type."""
        self.refused(lambda: collector.record_counter("m", -1))
        self.refused(lambda: collector.record_histogram("m", float("nan")))
        with pytest.raises(UnknownMetricError):
            self.summary(parts, "m")
        collector.record_gauge("m", 1)
        self.known("gauge", self.summary(parts, "m"), last=1)

    @pytest.mark.parametrize(
        "unit", [MetricUnit.BYTES, MetricUnit.COUNT, MetricUnit.PERCENT, "seconds", None]
    )
    def test_a_duration_needs_a_unit_of_time(
        self, collector: MetricCollector, parts: Parts, unit: Any
    ) -> None:
        """Another unit is an error that lists those of time, and nothing is recorded."""
        collector.record_timer("t", 1)
        before = self.summary(parts, "t")
        with pytest.raises(InvalidInputError, match=r"(?i)microseconds"):
            collector.record_timer("t", 1, unit)
        assert self.summary(parts, "t") == before
