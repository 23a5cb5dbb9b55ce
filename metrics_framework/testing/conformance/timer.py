"""The contract of `PerformanceTimer`."""

from __future__ import annotations

from abc import ABC
from datetime import timedelta
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownTimerError
from metrics_framework.protocols import PerformanceTimer
from metrics_framework.testing.conformance.base import (
    BAD_NAMES,
    THREADS,
    Contract,
    Parts,
    check_members,
    in_threads,
    interrupted,
)
from metrics_framework.values import MetricUnit


class PerformanceTimerContract(Contract, ABC):
    """Every sentence of `PerformanceTimer`; ``make`` returns a timer."""

    @pytest.fixture
    def timer(self, parts: Parts) -> PerformanceTimer:
        """Return the timer."""
        assert parts.timer is not None, "make() has to return a timer"
        check_members(parts.timer, PerformanceTimer)
        return parts.timer

    def stats(self, parts: Parts, operation: str) -> dict[str, float]:
        """Read the statistics of an operation."""
        assert parts.timer is not None
        self.settle(parts)
        return parts.timer.get_timing_stats(operation)

    def test_a_timing_has_a_duration(self, timer: PerformanceTimer, clock: ManualClock) -> None:
        """The result has the duration in milliseconds, and its start and end."""
        timer_id = timer.start_timer("op")
        clock.advance(0.25)
        result = timer.stop_timer(timer_id)
        assert result.operation_name == "op"
        assert result.duration == pytest.approx(250)
        assert result.unit is MetricUnit.MILLISECONDS
        assert result.success is True
        assert result.end_time - result.start_time == timedelta(seconds=0.25)
        assert result.start_time.utcoffset() == timedelta(0)
        assert result.end_time.timestamp() == pytest.approx(clock.time_ns() / 1e9)

    def test_a_timing_may_be_unsuccessful(self, timer: PerformanceTimer) -> None:
        """`stop_timer` takes the outcome; the duration counts either way."""
        assert timer.stop_timer(timer.start_timer("op"), success=False).success is False

    def test_metadata_is_returned(self, timer: PerformanceTimer) -> None:
        """The result has the metadata of the start, and the caller's dict is not modified."""
        metadata: dict[str, Any] = {"rows": 3}
        timer_id = timer.start_timer("op", metadata)
        metadata["rows"] = 4
        result = timer.stop_timer(timer_id)
        assert result.metadata == {"rows": 3}
        timer.time_operation("op", lambda: None, metadata)
        assert metadata == {"rows": 4}
        assert timer.stop_timer(timer.start_timer("op")).metadata == {}

    def test_timings_of_one_operation_overlap(self, timer: PerformanceTimer, clock: ManualClock) -> None:
        """Each has its own id and can be stopped in any order."""
        ids = []
        for _ in range(100):
            ids.append(timer.start_timer("op"))
            clock.advance(1)
        assert len(set(ids)) == 100
        durations = [timer.stop_timer(timer_id).duration for timer_id in ids]
        assert durations == pytest.approx([(100 - number) * 1_000 for number in range(100)])

    def test_an_unknown_timer_is_an_error(self, timer: PerformanceTimer, parts: Parts) -> None:
        """So is a stopped timer. The error quotes the id, and nothing is recorded twice."""
        timer_id = timer.start_timer("op")
        timer.stop_timer(timer_id)
        for wrong in (timer_id, "no such timer"):
            with pytest.raises(UnknownTimerError) as caught:
                timer.stop_timer(wrong)
            assert repr(wrong) in str(caught.value)
        self.known("timer", self.stats(parts, "op"), count=1)

    def test_a_call_is_timed(self, timer: PerformanceTimer, clock: ManualClock) -> None:
        """The metadata contains the result of the callable beside the metadata passed."""

        def work() -> str:
            clock.advance(0.5)
            return "done"

        result = timer.time_operation("op", work, {"rows": 3})
        assert result.duration == pytest.approx(500)
        assert result.metadata == {"rows": 3, "result": "done"}
        assert result.success is True
        assert result.operation_name == "op"
        assert timer.time_operation("op", lambda: None).metadata == {"result": None}

    @pytest.mark.parametrize("error", [KeyError("missing"), KeyboardInterrupt("now")], ids=repr)
    def test_a_call_that_raises_is_timed(
        self, timer: PerformanceTimer, parts: Parts, clock: ManualClock, error: BaseException
    ) -> None:
        """The exception propagates unchanged, whatever its type, and the time is recorded."""

        def fail() -> None:
            clock.advance(0.125)
            raise error

        with pytest.raises(type(error)) as caught:
            timer.time_operation("op", fail)
        assert caught.value is error
        stats = self.stats(parts, "op")
        self.known("timer", stats, count=1, sum=125)
        assert stats.get("failures", 1) == 1, "a call that raises is a failure"

    def test_statistics_are_in_milliseconds(
        self, timer: PerformanceTimer, parts: Parts, clock: ManualClock
    ) -> None:
        """The keys are those of a timer's summary since the start."""
        for seconds in (0.01, 0.02, 0.06):
            timer_id = timer.start_timer("op")
            clock.advance(seconds)
            timer.stop_timer(timer_id)
        stats = self.stats(parts, "op")
        self.check_keys("timer", {key: value for key, value in stats.items() if key != "failures"})
        assert stats.get("failures", 0) == 0
        self.known("timer", stats, count=3, sum=90, avg=30, min=10, max=60, p50=20, p95=60, p99=60)
        assert stats["seconds"] >= 0.09
        self.known("timer", stats, stddev=(1400 / 3) ** 0.5, rate=3 / stats["seconds"])

    def test_operations_are_separate(self, timer: PerformanceTimer, parts: Parts, clock: ManualClock) -> None:
        """Each operation has its own durations; a failure takes time like a success."""
        for operation, seconds in {"one": 1, "other": 2}.items():
            timer_id = timer.start_timer(operation, {"user": operation})
            clock.advance(seconds)
            timer.stop_timer(timer_id, success=operation == "one")
        self.known("timer", self.stats(parts, "one"), count=1, sum=1_000)
        self.known("timer", self.stats(parts, "other"), count=1, sum=2_000)

    def test_an_operation_that_was_never_timed_is_unknown(
        self, timer: PerformanceTimer, parts: Parts
    ) -> None:
        """The error names the nearest known operation."""
        timer.stop_timer(timer.start_timer("db.query"))
        with pytest.raises(UnknownMetricError, match=r"db\.query"):
            self.stats(parts, "db.qeury")

    def test_a_running_timer_is_not_counted(self, timer: PerformanceTimer, parts: Parts) -> None:
        """Only stopped timers count."""
        timer.stop_timer(timer.start_timer("op"))
        timer.start_timer("op")
        self.known("timer", self.stats(parts, "op"), count=1)

    @pytest.mark.parametrize("bad", BAD_NAMES, ids=repr)
    def test_an_operation_has_a_name(self, timer: PerformanceTimer, bad: Any) -> None:
        """An empty name or another type raises an error that quotes it, and a callable is not called."""
        called = []
        with pytest.raises(InvalidInputError) as caught:
            timer.start_timer(bad)
        assert repr(bad) in str(caught.value)
        with pytest.raises(InvalidInputError):
            timer.time_operation(bad, lambda: called.append(1))
        assert called == []

    def test_threads_lose_nothing(self, timer: PerformanceTimer, parts: Parts) -> None:
        """Timings of concurrent threads are all counted."""
        times = 500

        def work(_: int) -> None:
            for _ in range(times):
                timer.stop_timer(timer.start_timer("op"))

        in_threads(work)
        self.known("timer", self.stats(parts, "op"), count=THREADS * times)

    def test_a_signal_handler_may_time(self, timer: PerformanceTimer, parts: Parts) -> None:
        """A timing in the middle of another neither blocks nor loses anything."""
        self.need_reentry()
        done, interrupts = interrupted(
            lambda: timer.stop_timer(timer.start_timer("op")),
            lambda: timer.stop_timer(timer.start_timer("op")),
        )
        self.known("timer", self.stats(parts, "op"), count=done + interrupts)
