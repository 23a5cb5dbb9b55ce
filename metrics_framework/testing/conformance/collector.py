"""The contract of `MetricCollector`, read back through the backend's aggregator."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.protocols import MetricCollector
from metrics_framework.testing.conformance.base import (
    BAD_NAMES,
    BAD_NUMBERS,
    BAD_TAGS,
    THREADS,
    Contract,
    Parts,
    by_name,
    check_members,
    collected,
    in_threads,
    interrupted,
)
from metrics_framework.values import MetricUnit

TYPES = ["counter", "gauge", "histogram", "timer"]


class MetricCollectorContract(Contract, ABC):
    """Every sentence of `MetricCollector`; ``make`` returns a collector and an aggregator that sees it."""

    @pytest.fixture
    def collector(self, parts: Parts) -> MetricCollector:
        """Return the collector."""
        assert parts.collector is not None, "make() has to return a collector"
        check_members(parts.collector, MetricCollector)
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
        """Assert that a call raises one error that quotes the bad value."""
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert quoted in str(caught.value)

    # -- counters --------------------------------------------------------------------------------------

    def test_a_counter_adds_up(self, collector: MetricCollector, parts: Parts) -> None:
        """Records are added up: 1 by default, zero and fractions, too."""
        collector.record_counter("c")
        collector.record_counter("c", 41)
        collector.record_counter("c", 0)
        collector.record_counter("c", 0.5)
        summary = self.summary(parts, "c")
        self.check_keys("counter", summary)
        self.known("counter", summary, sum=42.5, total=42.5, count=4)

    def test_increment_counts(self, collector: MetricCollector, parts: Parts) -> None:
        """Incrementing an unknown name creates a counter."""
        for _ in range(3):
            collector.increment("c")
        collector.record_counter("c", 2)
        self.known("counter", self.summary(parts, "c"), total=5)

    # -- gauges ----------------------------------------------------------------------------------------

    def test_a_gauge_keeps_its_last_value(self, collector: MetricCollector, parts: Parts) -> None:
        """The last value counts, positive or negative."""
        for value in (3, -7.5, 2):
            collector.record_gauge("g", value)
        summary = self.summary(parts, "g")
        self.check_keys("gauge", summary)
        self.known("gauge", summary, last=2, min=-7.5, max=3, count=3)

    def test_increment_and_decrement_move_a_gauge(self, collector: MetricCollector, parts: Parts) -> None:
        """A gauge goes up and down by 1."""
        collector.record_gauge("g", 10)
        collector.increment("g")
        collector.increment("g")
        collector.decrement("g")
        self.known("gauge", self.summary(parts, "g"), last=11)

    def test_decrement_of_an_unknown_name_creates_a_gauge(
        self, collector: MetricCollector, parts: Parts
    ) -> None:
        """Decrementing an unknown name creates a gauge."""
        collector.decrement("g")
        collector.increment("g")
        collector.decrement("g")
        summary = self.summary(parts, "g")
        self.check_keys("gauge", summary)
        self.known("gauge", summary, last=-1)

    def test_a_counter_never_goes_down(self, collector: MetricCollector, parts: Parts) -> None:
        """Decrementing a counter raises an error that recommends a gauge, and changes nothing."""
        collector.record_counter("c", 5)
        self.refused(lambda: collector.decrement("c"), "gauge")
        self.refused(lambda: collector.decrement("c", {"new": "series"}), "gauge")
        self.known("counter", self.summary(parts, "c"), total=5)

    # -- distributions ---------------------------------------------------------------------------------

    def test_a_histogram_keeps_a_distribution(self, collector: MetricCollector, parts: Parts) -> None:
        """Values are counted, summed and ranked; a quantile is the value at the nearest rank."""
        for value in (4, 1, 10, 0, 3):
            collector.record_histogram("h", value)
        summary = self.summary(parts, "h")
        self.check_keys("histogram", summary)
        self.known(
            "histogram", summary, count=5, sum=18, avg=3.6, min=0, max=10, p50=3, p95=10, stddev=12.24**0.5
        )

    def test_a_histogram_takes_either_sign(self, collector: MetricCollector, parts: Parts) -> None:
        """Negative values count and rank like all others or raise an error; they are never dropped."""
        if not self.takes_negatives:
            self.refused(lambda: collector.record_histogram("h", -2), "-2")
            return
        for value in (4, -20, 10, -2, 3):
            collector.record_histogram("h", value)
        self.known("histogram", self.summary(parts, "h"), count=5, sum=-5, avg=-1, min=-20, max=10, p50=3)

    @pytest.mark.parametrize(
        ("duration", "unit"),
        [(1.5, MetricUnit.SECONDS), (1_500, MetricUnit.MILLISECONDS), (1.5e6, MetricUnit.MICROSECONDS)],
    )
    def test_a_timer_keeps_milliseconds(
        self, collector: MetricCollector, parts: Parts, duration: float, unit: MetricUnit
    ) -> None:
        """A duration in any unit of time is converted to milliseconds."""
        collector.record_timer("t", duration, unit)
        summary = self.summary(parts, "t")
        self.check_keys("timer", summary)
        self.known("timer", summary, count=1, sum=1_500, min=1_500, max=1_500, p50=1_500)

    def test_a_timer_takes_milliseconds_by_default(self, collector: MetricCollector, parts: Parts) -> None:
        """The default unit is milliseconds."""
        collector.record_timer("t", 20)
        self.known("timer", self.summary(parts, "t"), sum=20)

    # -- tags ------------------------------------------------------------------------------------------

    def test_tags_choose_a_series(self, collector: MetricCollector, parts: Parts) -> None:
        """Each set of tags is a series, and the metric's summary covers all series."""
        collector.record_counter("c", 1, {"method": "GET"})
        collector.record_counter("c", 2, {"method": "PUT"})
        collector.record_counter("c", 4, {"method": "GET", "status": "500"})
        collector.record_counter("c", 8)
        assert self.series(parts, "c") == {
            (("method", "GET"),): 1,
            (("method", "PUT"),): 2,
            (("method", "GET"), ("status", "500")): 4,
            (): 8,
        }
        self.known("counter", self.summary(parts, "c"), total=15)

    @pytest.mark.parametrize("metric_type", TYPES)
    def test_every_type_has_series(self, collector: MetricCollector, parts: Parts, metric_type: str) -> None:
        """For every type, tags select a series, and a summary covers all series."""
        record = self.record(collector, metric_type)
        record("m", 5, tags={"a": "1"})
        record("m", 2, tags={"a": "2"})
        record("m", 3)
        assert set(self.series(parts, "m")) == {(("a", "1"),), (("a", "2"),), ()}
        summary = self.summary(parts, "m")
        self.known(metric_type, summary, count=3, sum=10, total=10, min=2, max=5, p50=3)
        if metric_type in ("histogram", "timer"):
            self.known(metric_type, summary, avg=10 / 3, stddev=(14 / 9) ** 0.5, p95=5)

    def test_steps_choose_a_series_too(self, collector: MetricCollector, parts: Parts) -> None:
        """An increment or decrement changes only the series of its tags."""
        one, other = {"a": "1"}, {"a": "2"}
        for tags in (one, other):
            collector.record_gauge("g", 10, tags)
        collector.increment("g", one)
        collector.decrement("g", other)
        collector.decrement("g", other)
        collector.increment("c", one)
        collector.increment("c", one)
        collector.increment("c")
        assert self.series(parts, "g") == {(("a", "1"),): 11, (("a", "2"),): 8}
        assert self.series(parts, "c") == {(("a", "1"),): 2, (): 1}

    def test_similar_names_stay_separate(self, collector: MetricCollector, parts: Parts) -> None:
        """A name that the backend would map to another metric's raises an error; metrics are never merged."""
        recorded = {}
        for number, name in enumerate(("a.b", "a_b", "a-b", "a.b_total"), start=1):
            try:
                collector.record_counter(name, number)
            except InvalidInputError:
                continue
            recorded[name] = number
        assert recorded
        for name, number in recorded.items():
            self.known("counter", self.summary(parts, name), total=number)
            assert self.series(parts, name) == {(): number}

    def test_the_order_of_tags_does_not_matter(self, collector: MetricCollector, parts: Parts) -> None:
        """The same tags in another order are the same series."""
        collector.record_counter("c", 1, {"a": "1", "b": "2"})
        collector.record_counter("c", 1, {"b": "2", "a": "1"})
        assert self.series(parts, "c") == {(("a", "1"), ("b", "2")): 2}

    def test_no_tags_are_empty_tags(self, collector: MetricCollector, parts: Parts) -> None:
        """`None` and `{}` are the same series."""
        collector.record_counter("c", 1, {})
        collector.record_counter("c", 1, None)
        assert self.series(parts, "c") == {(): 2}

    def test_values_of_tags_are_strings(self, collector: MetricCollector, parts: Parts) -> None:
        """Other values raise an error or are converted by `str`, so that 1, True and 1.0 differ."""
        values: list[Any] = [1, True, 1.0, "1", None]
        expected: dict[str, int] = {}
        for value in values:
            try:
                collector.record_counter("c", 1, {"value": value})
            except InvalidInputError:
                assert not isinstance(value, str)
            else:
                expected[str(value)] = expected.get(str(value), 0) + 1
        assert self.series(parts, "c") == {(("value", text),): n for text, n in expected.items()}

    def test_tags_are_not_kept(self, collector: MetricCollector, parts: Parts) -> None:
        """The caller's dict is not modified, and later changes to it have no effect."""
        tags = {"method": "GET"}
        collector.record_counter("c", 1, tags)
        assert tags == {"method": "GET"}
        tags["method"] = "PUT"
        tags["more"] = "yes"
        assert self.series(parts, "c") == {(("method", "GET"),): 1}

    # -- time ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("metric_type", TYPES)
    def test_a_window_holds_what_was_recorded_in_it(
        self, collector: MetricCollector, parts: Parts, clock: ManualClock, metric_type: str
    ) -> None:
        """Older records are not in the window, but in the summary since the start."""
        self.need_windows()
        record = self.record(collector, metric_type)
        record("m", 50)
        clock.advance(3_600)
        record("m", 2)
        record("m", 4)
        clock.advance(30)
        inside = self.summary(parts, "m", timedelta(minutes=10))
        self.known(metric_type, inside, count=2, sum=6, total=56, last=4)
        if metric_type != "gauge":  # the value of a gauge may date from before the window
            self.known(metric_type, inside, min=2, max=4, avg=3, p50=2, p99=4, stddev=1)
        self.known(metric_type, self.summary(parts, "m"), count=3, sum=56, total=56, max=50, min=2)
        self.known(metric_type, self.summary(parts, "m", timedelta(hours=2)), count=3, sum=56, max=50)

    def test_a_rate_is_per_second(self, collector: MetricCollector, parts: Parts, clock: ManualClock) -> None:
        """It is a counter's sum, or a distribution's count, divided by `seconds`."""
        for _ in range(2):
            collector.record_counter("c", 15)
            collector.record_histogram("h", 5)
            collector.record_timer("t", 5)
            clock.advance(10)
        for metric_type, rate in {"counter": 1.5, "histogram": 0.1, "timer": 0.1}.items():
            summary = self.summary(parts, metric_type[0])
            assert summary["seconds"] == pytest.approx(20)
            self.known(metric_type, summary, rate=rate)

    # -- threads and re-entry --------------------------------------------------------------------------

    def test_threads_lose_nothing(self, collector: MetricCollector, parts: Parts) -> None:
        """Records of concurrent threads are all counted."""
        times = 1_000

        def record(number: int) -> None:
            for index in range(times):
                tags = {"a": str(index % 5), "b": "x"}
                collector.record_counter("c", 1, tags if number % 2 else dict(reversed(tags.items())))
                collector.record_histogram("h", 1)
                collector.record_gauge("g", index)
                collector.increment("in_flight.c")

        in_threads(record)
        self.known("counter", self.summary(parts, "c"), total=THREADS * times, count=THREADS * times)
        self.known("histogram", self.summary(parts, "h"), count=THREADS * times, sum=THREADS * times)
        self.known("gauge", self.summary(parts, "g"), count=THREADS * times)
        self.known("counter", self.summary(parts, "in_flight.c"), total=THREADS * times)
        assert len(self.series(parts, "c")) == 5

    def test_threads_move_a_gauge_together(self, collector: MetricCollector, parts: Parts) -> None:
        """Equal numbers of increments and decrements by many threads leave a gauge unchanged."""
        collector.record_gauge("g", 0)

        def move(_: int) -> None:
            for _ in range(500):
                collector.increment("g")
                collector.decrement("g")

        in_threads(move)
        self.known("gauge", self.summary(parts, "g"), last=0)

    def test_a_signal_handler_may_record(self, collector: MetricCollector, parts: Parts) -> None:
        """A record in the middle of another neither blocks nor loses anything."""
        self.need_reentry()
        done, interrupts = interrupted(
            lambda: collector.record_counter("c", 1, {"by": "work"}),
            lambda: collector.record_counter("c", 1, {"by": "work"}),
        )
        self.known("counter", self.summary(parts, "c"), total=done + interrupts)

    def test_a_finalizer_may_record(self, collector: MetricCollector, parts: Parts) -> None:
        """A record in ``__del__`` during garbage collection neither blocks nor loses anything."""
        self.need_reentry()
        done, finalized = collected(
            lambda: collector.record_histogram("h", 1), lambda: collector.record_histogram("h", 1)
        )
        self.known("histogram", self.summary(parts, "h"), count=done + finalized)

    # -- bad input -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
    @pytest.mark.parametrize("record", ["counter", "gauge", "histogram", "timer"])
    def test_a_bad_number_is_one_error(
        self, collector: MetricCollector, parts: Parts, record: str, bad: Any
    ) -> None:
        """The error quotes the value, and all earlier records remain."""
        method = self.record(collector, record)
        method("m", 2)
        before = self.summary(parts, "m")
        self.refused(lambda: method("m", bad), repr(bad))
        self.refused(lambda: method("m", bad, tags={"new": "series"}), repr(bad))
        assert self.summary(parts, "m") == before
        assert set(self.series(parts, "m")) == {()}

    @pytest.mark.parametrize("record", ["counter", "histogram", "timer"])
    def test_a_boolean_is_not_a_number(self, collector: MetricCollector, parts: Parts, record: str) -> None:
        """Counters, histograms and timers reject booleans with an error that quotes them."""
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
    def test_counters_and_timers_reject_negative_values(
        self, collector: MetricCollector, parts: Parts, record: str
    ) -> None:
        """A negative step or duration raises an error that quotes it."""
        method = self.record(collector, record)
        method("m", 2)
        before = self.summary(parts, "m")
        self.refused(lambda: method("m", -1), "-1")
        assert self.summary(parts, "m") == before

    @pytest.mark.parametrize("bad", BAD_NAMES, ids=repr)
    def test_a_name_is_a_non_empty_string(self, collector: MetricCollector, bad: Any) -> None:
        """An empty name or another type raises an error that quotes it."""
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
        """Anything else raises an error, and nothing is recorded."""
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
    def test_a_name_has_one_type(self, collector: MetricCollector, parts: Parts, first: str) -> None:
        """Another type raises an error that names the first type, and changes nothing."""
        self.record(collector, first)("m", 2)
        before = self.summary(parts, "m")
        for other in set(TYPES) - {first}:
            self.refused(partial(self.record(collector, other), "m", 3), first)
        assert self.summary(parts, "m") == before

    @pytest.mark.parametrize("kind", ["histogram", "timer"])
    def test_a_distribution_has_no_steps(self, collector: MetricCollector, parts: Parts, kind: str) -> None:
        """Incrementing or decrementing a distribution raises an error and changes nothing."""
        self.record(collector, kind)("m", 1)
        before = self.summary(parts, "m")
        for step in (collector.increment, collector.decrement):
            self.refused(partial(step, "m"))
        assert self.summary(parts, "m") == before

    def test_a_rejected_record_leaves_no_trace(self, collector: MetricCollector, parts: Parts) -> None:
        """A name with rejected records only is unknown, and free for any type."""
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
        """Another unit raises an error that lists the units of time, and nothing is recorded."""
        collector.record_timer("t", 1)
        before = self.summary(parts, "t")
        with pytest.raises(InvalidInputError, match=r"(?i)microseconds"):
            collector.record_timer("t", 1, unit)
        assert self.summary(parts, "t") == before
