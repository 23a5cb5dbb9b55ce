"""The contract of `MetricCollector`, read back through the backend's aggregator."""

from __future__ import annotations

from abc import ABC
from datetime import timedelta
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricCollector
from metrics_framework.testing.conformance.base import THREADS, Parts, collected, in_threads, interrupted
from metrics_framework.testing.conformance.collector_input import TYPES, CollectorInput
from metrics_framework.values import MetricUnit


class MetricCollectorContract(CollectorInput, ABC):
    """Every sentence of `MetricCollector`; ``make`` returns a collector and an aggregator that sees it."""

    # -- counters --------------------------------------------------------------------------------------

    def test_a_counter_adds_up(self, collector: MetricCollector, parts: Parts) -> None:
        """What is recorded is added; 1 by default; zero and fractions count too."""
        collector.record_counter("c")
        collector.record_counter("c", 41)
        collector.record_counter("c", 0)
        collector.record_counter("c", 0.5)
        summary = self.summary(parts, "c")
        assert set(summary) == self.keys("counter")
        self.known("counter", summary, sum=42.5, total=42.5, count=4)

    def test_increment_counts(self, collector: MetricCollector, parts: Parts) -> None:
        """An unknown name that is incremented becomes a counter."""
        for _ in range(3):
            collector.increment("c")
        collector.record_counter("c", 2)
        self.known("counter", self.summary(parts, "c"), total=5)

    # -- gauges ----------------------------------------------------------------------------------------

    def test_a_gauge_is_what_it_was_set_to(self, collector: MetricCollector, parts: Parts) -> None:
        """The last value holds, of either sign."""
        for value in (3, -7.5, 2):
            collector.record_gauge("g", value)
        summary = self.summary(parts, "g")
        assert set(summary) == self.keys("gauge")
        self.known("gauge", summary, last=2, min=-7.5, max=3, count=3)

    def test_increment_and_decrement_move_a_gauge(self, collector: MetricCollector, parts: Parts) -> None:
        """A name that is a gauge goes up and down by 1."""
        collector.record_gauge("g", 10)
        collector.increment("g")
        collector.increment("g")
        collector.decrement("g")
        self.known("gauge", self.summary(parts, "g"), last=11)

    def test_decrement_of_an_unknown_name_makes_a_gauge(
        self, collector: MetricCollector, parts: Parts
    ) -> None:
        """What begins by going down is a gauge from then on."""
        collector.decrement("g")
        collector.increment("g")
        collector.decrement("g")
        summary = self.summary(parts, "g")
        assert set(summary) == self.keys("gauge")
        self.known("gauge", summary, last=-1)

    def test_a_counter_never_goes_down(self, collector: MetricCollector, parts: Parts) -> None:
        """To decrement a counter is an error that says to declare a gauge, and takes nothing away."""
        collector.record_counter("c", 5)
        self.refused(lambda: collector.decrement("c"), "gauge")
        self.refused(lambda: collector.decrement("c", {"new": "series"}), "gauge")
        self.known("counter", self.summary(parts, "c"), total=5)

    # -- distributions ---------------------------------------------------------------------------------

    def test_a_histogram_keeps_a_distribution(self, collector: MetricCollector, parts: Parts) -> None:
        """Values are counted, added and ranked; a quantile is one of them, the nearest rank."""
        for value in (4, 1, 10, 0, 3):
            collector.record_histogram("h", value)
        summary = self.summary(parts, "h")
        assert set(summary) == self.keys("histogram")
        self.known(
            "histogram", summary, count=5, sum=18, avg=3.6, min=0, max=10, p50=3, p95=10, stddev=12.24**0.5
        )

    def test_a_histogram_takes_either_sign(self, collector: MetricCollector, parts: Parts) -> None:
        """Negative values count and rank like all others, or are refused; they never disappear."""
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
        """A duration counts the same in any unit of time."""
        collector.record_timer("t", duration, unit)
        summary = self.summary(parts, "t")
        assert set(summary) == self.keys("timer")
        self.known("timer", summary, count=1, sum=1_500, min=1_500, max=1_500, p50=1_500)

    def test_a_timer_takes_milliseconds_by_default(self, collector: MetricCollector, parts: Parts) -> None:
        """Without a unit a duration is in milliseconds."""
        collector.record_timer("t", 20)
        self.known("timer", self.summary(parts, "t"), sum=20)

    # -- tags ------------------------------------------------------------------------------------------

    def test_tags_choose_a_series(self, collector: MetricCollector, parts: Parts) -> None:
        """Each set of tags is a series, and the metric is all of them."""
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
        """Whatever the type, tags choose a series, and a summary is of all of them."""
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
        """An increment or decrement moves the series of its tags and no other."""
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

    def test_names_are_apart(self, collector: MetricCollector, parts: Parts) -> None:
        """A name that the backend spells like another is refused; two metrics never become one."""
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

    def test_the_order_of_tags_is_no_matter(self, collector: MetricCollector, parts: Parts) -> None:
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
        """Another value is refused or converted by `str`, so that 1, True and 1.0 are never the same."""
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
        """The caller's dict is left alone, and what it does to it afterwards changes nothing."""
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
        """What is older than a window is not in it; since the start, all is."""
        self.need_windows()
        record = self.record(collector, metric_type)
        record("m", 50)
        clock.advance(3_600)
        record("m", 2)
        record("m", 4)
        clock.advance(30)
        inside = self.summary(parts, "m", timedelta(minutes=10))
        self.known(metric_type, inside, count=2, sum=6, total=56, last=4)
        if metric_type != "gauge":  # which may still have been what it was at the window's beginning
            self.known(metric_type, inside, min=2, max=4, avg=3, p50=2, p99=4, stddev=1)
        self.known(metric_type, self.summary(parts, "m"), count=3, sum=56, total=56, max=50, min=2)
        self.known(metric_type, self.summary(parts, "m", timedelta(hours=2)), count=3, sum=56, max=50)

    def test_a_rate_is_per_second(self, collector: MetricCollector, parts: Parts, clock: ManualClock) -> None:
        """A counter's is its sum, a distribution's its records, by the seconds that the summary covers."""
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
        """Whatever threads record at once is there to the last count."""
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
        """Steps up and down from many threads end where they began."""
        collector.record_gauge("g", 0)

        def move(_: int) -> None:
            for _ in range(500):
                collector.increment("g")
                collector.decrement("g")

        in_threads(move)
        self.known("gauge", self.summary(parts, "g"), last=0)

    def test_a_signal_handler_may_record(self, collector: MetricCollector, parts: Parts) -> None:
        """Recording in the middle of recording neither blocks nor loses anything."""
        self.need_reentry()
        done, interrupts = interrupted(
            lambda: collector.record_counter("c", 1, {"by": "work"}),
            lambda: collector.record_counter("c", 1, {"by": "work"}),
        )
        self.known("counter", self.summary(parts, "c"), total=done + interrupts)

    def test_a_finalizer_may_record(self, collector: MetricCollector, parts: Parts) -> None:
        """Recording from ``__del__``, wherever garbage is collected, neither blocks nor loses anything."""
        self.need_reentry()
        done, finalized = collected(
            lambda: collector.record_histogram("h", 1), lambda: collector.record_histogram("h", 1)
        )
        self.known("histogram", self.summary(parts, "h"), count=done + finalized)
