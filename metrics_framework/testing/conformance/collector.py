"""The contract of `MetricCollector`, read back through the backend's aggregator."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError
from metrics_framework.protocols import MetricCollector
from metrics_framework.testing.conformance.base import (
    BAD_NAMES,
    BAD_NUMBERS,
    BAD_TAGS,
    THREADS,
    Contract,
    Parts,
    by_name,
    collected,
    in_threads,
    interrupted,
)
from metrics_framework.values import MetricUnit


class MetricCollectorContract(Contract, ABC):
    """Every sentence of `MetricCollector`; ``make`` returns a collector and an aggregator that sees it."""

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

    # -- counters --------------------------------------------------------------------------------------

    def test_a_counter_adds_up(self, collector: MetricCollector, parts: Parts) -> None:
        """What is recorded is added; 1 by default; zero and fractions count too."""
        collector.record_counter("c")
        collector.record_counter("c", 41)
        collector.record_counter("c", 0)
        collector.record_counter("c", 0.5)
        summary = self.summary(parts, "c")
        assert set(summary) == self.keys("counter")
        self.known(summary, sum=42.5, total=42.5, count=4)

    def test_increment_counts(self, collector: MetricCollector, parts: Parts) -> None:
        """An unknown name that is incremented becomes a counter."""
        for _ in range(3):
            collector.increment("c")
        collector.record_counter("c", 2)
        self.known(self.summary(parts, "c"), total=5)

    # -- gauges ----------------------------------------------------------------------------------------

    def test_a_gauge_is_what_it_was_set_to(self, collector: MetricCollector, parts: Parts) -> None:
        """The last value holds, of either sign."""
        for value in (3, -7.5, 2):
            collector.record_gauge("g", value)
        summary = self.summary(parts, "g")
        assert set(summary) == self.keys("gauge")
        self.known(summary, last=2, min=-7.5, max=3, count=3)

    def test_increment_and_decrement_move_a_gauge(self, collector: MetricCollector, parts: Parts) -> None:
        """A name that is a gauge goes up and down by 1."""
        collector.record_gauge("g", 10)
        collector.increment("g")
        collector.increment("g")
        collector.decrement("g")
        self.known(self.summary(parts, "g"), last=11)

    def test_decrement_of_an_unknown_name_makes_a_gauge(
        self, collector: MetricCollector, parts: Parts
    ) -> None:
        """What begins by going down is a gauge from then on."""
        collector.decrement("g")
        collector.increment("g")
        collector.decrement("g")
        summary = self.summary(parts, "g")
        assert set(summary) == self.keys("gauge")
        self.known(summary, last=-1)

    def test_a_counter_never_goes_down(self, collector: MetricCollector, parts: Parts) -> None:
        """To decrement a counter is an error that says to declare a gauge, and takes nothing away."""
        collector.record_counter("c", 5)
        with pytest.raises(InvalidInputError, match="gauge"):
            collector.decrement("c")
        with pytest.raises(InvalidInputError):
            collector.record_counter("c", -1)
        self.known(self.summary(parts, "c"), total=5)

    # -- distributions ---------------------------------------------------------------------------------

    def test_a_histogram_keeps_a_distribution(self, collector: MetricCollector, parts: Parts) -> None:
        """Values of either sign are counted, added and ranked."""
        for value in (4, -2, 10, 0, 3):
            collector.record_histogram("h", value)
        summary = self.summary(parts, "h")
        assert set(summary) == self.keys("histogram")
        self.known(summary, count=5, sum=15, avg=3, min=-2, max=10, p50=3, p95=10, stddev=16.8**0.5)

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
        self.known(summary, count=1, sum=1_500, min=1_500, max=1_500, p50=1_500)

    def test_a_timer_takes_milliseconds_by_default(self, collector: MetricCollector, parts: Parts) -> None:
        """Without a unit a duration is in milliseconds."""
        collector.record_timer("t", 20)
        self.known(self.summary(parts, "t"), sum=20)

    @pytest.mark.parametrize(
        "unit", [MetricUnit.BYTES, MetricUnit.COUNT, MetricUnit.PERCENT, "seconds", None]
    )
    def test_a_duration_needs_a_unit_of_time(
        self, collector: MetricCollector, parts: Parts, unit: Any
    ) -> None:
        """Another unit is an error that lists those of time, and nothing is recorded."""
        collector.record_timer("t", 1)
        with pytest.raises(InvalidInputError, match="SECONDS"):
            collector.record_timer("t", 1, unit)
        self.known(self.summary(parts, "t"), count=1)

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
        self.known(self.summary(parts, "c"), total=15)

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

    def test_values_of_tags_become_strings(self, collector: MetricCollector, parts: Parts) -> None:
        """Another value is converted by `str`, so that 1, True and 1.0 are apart and 1 is "1"."""
        values: list[Any] = [1, True, 1.0, "1", None]
        for value in values:
            collector.record_counter("c", 1, {"value": value})
        expected = {"1": 2, "True": 1, "1.0": 1, "None": 1}
        assert self.series(parts, "c") == {(("value", text),): n for text, n in expected.items()}

    def test_tags_are_not_kept(self, collector: MetricCollector, parts: Parts) -> None:
        """What the caller does to its dict afterwards changes nothing."""
        tags = {"method": "GET"}
        collector.record_counter("c", 1, tags)
        tags["method"] = "PUT"
        tags["more"] = "yes"
        assert self.series(parts, "c") == {(("method", "GET"),): 1}
        assert tags == {"method": "PUT", "more": "yes"}

    # -- bad input -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
    @pytest.mark.parametrize("record", ["counter", "gauge", "histogram", "timer"])
    def test_a_bad_number_is_one_error(
        self, collector: MetricCollector, parts: Parts, record: str, bad: Any
    ) -> None:
        """It quotes the value, and every earlier number is still there."""
        method = getattr(collector, f"record_{record}")
        method("m", 2)
        with pytest.raises(InvalidInputError) as caught:
            method("m", bad)
        assert repr(bad) in str(caught.value)
        self.known(self.summary(parts, "m"), count=1)

    @pytest.mark.parametrize("record", ["counter", "timer"])
    def test_what_only_grows_takes_nothing_negative(
        self, collector: MetricCollector, parts: Parts, record: str
    ) -> None:
        """A negative step or duration is an error that quotes it."""
        method = getattr(collector, f"record_{record}")
        method("m", 2)
        with pytest.raises(InvalidInputError, match="-1"):
            method("m", -1)
        self.known(self.summary(parts, "m"), count=1, sum=2)

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
            with pytest.raises(InvalidInputError) as caught:
                call()
            assert repr(bad) in str(caught.value)

    @pytest.mark.parametrize("bad", BAD_TAGS, ids=repr)
    def test_tags_are_a_mapping_of_names(self, collector: MetricCollector, parts: Parts, bad: Any) -> None:
        """Anything else is an error, and nothing is recorded."""
        collector.record_counter("c", 1)
        calls: list[Callable[[], object]] = [
            lambda: collector.record_counter("c", 1, bad),
            lambda: collector.record_gauge("g", 1, bad),
            lambda: collector.record_histogram("h", 1, bad),
            lambda: collector.record_timer("t", 1, tags=bad),
            lambda: collector.increment("c", bad),
            lambda: collector.decrement("g", bad),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError):
                call()
        assert self.series(parts, "c") == {(): 1}

    @pytest.mark.parametrize("first", ["counter", "gauge", "histogram", "timer"])
    def test_a_name_is_of_one_type(self, collector: MetricCollector, parts: Parts, first: str) -> None:
        """Another type is an error that names both, and the numbers stay."""
        getattr(collector, f"record_{first}")("m", 2)
        for other in {"counter", "gauge", "histogram", "timer"} - {first}:
            with pytest.raises(MetricTypeError, match=first):
                getattr(collector, f"record_{other}")("m", 3)
        self.known(self.summary(parts, "m"), count=1)

    @pytest.mark.parametrize("kind", ["histogram", "timer"])
    def test_a_distribution_has_no_steps(self, collector: MetricCollector, kind: str) -> None:
        """To increment or decrement one is an error."""
        getattr(collector, f"record_{kind}")("m", 1)
        for step in (collector.increment, collector.decrement):
            with pytest.raises(InvalidInputError):
                step("m")

    def test_what_was_refused_leaves_no_trace(self, collector: MetricCollector, parts: Parts) -> None:
        """A name of which nothing was recorded is unknown, and free for any type."""
        with pytest.raises(InvalidInputError):
            collector.record_counter("m", -1)
        with pytest.raises(UnknownMetricError):
            self.summary(parts, "m")
        collector.record_gauge("m", 1)
        self.known(self.summary(parts, "m"), last=1)

    # -- time ------------------------------------------------------------------------------------------

    def test_a_window_holds_what_was_recorded_in_it(
        self, collector: MetricCollector, parts: Parts, clock: ManualClock
    ) -> None:
        """What is older than a window is not in it; the total is."""
        self.need_windows()
        collector.record_counter("c", 5)
        clock.advance(3_600)
        collector.record_counter("c", 2)
        clock.advance(30)
        self.known(self.summary(parts, "c", timedelta(minutes=10)), sum=2, count=1, total=7)
        self.known(self.summary(parts, "c"), sum=7, count=2, total=7)

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
        self.known(self.summary(parts, "c"), total=THREADS * times, count=THREADS * times)
        self.known(self.summary(parts, "h"), count=THREADS * times, sum=THREADS * times)
        self.known(self.summary(parts, "g"), count=THREADS * times)
        self.known(self.summary(parts, "in_flight.c"), total=THREADS * times)
        assert len(self.series(parts, "c")) == 5

    def test_threads_move_a_gauge_together(self, collector: MetricCollector, parts: Parts) -> None:
        """Steps up and down from many threads end where they began."""
        collector.record_gauge("g", 0)

        def move(_: int) -> None:
            for _ in range(500):
                collector.increment("g")
                collector.decrement("g")

        in_threads(move)
        self.known(self.summary(parts, "g"), last=0)

    def test_a_signal_handler_may_record(self, collector: MetricCollector, parts: Parts) -> None:
        """Recording in the middle of recording neither blocks nor loses anything."""
        done, interrupts = interrupted(
            lambda: collector.record_counter("c", 1, {"by": "work"}),
            lambda: collector.record_counter("c", 1, {"by": "work"}),
        )
        self.known(self.summary(parts, "c"), total=done + interrupts)

    def test_a_finalizer_may_record(self, collector: MetricCollector, parts: Parts) -> None:
        """Recording from ``__del__``, wherever garbage is collected, neither blocks nor loses anything."""
        done, finalized = collected(
            lambda: collector.record_histogram("h", 1), lambda: collector.record_histogram("h", 1)
        )
        self.known(self.summary(parts, "h"), count=done + finalized)
