"""The contract of `SuccessFailureTracker`."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.protocols import SuccessFailureTracker
from metrics_framework.testing.conformance.base import (
    BAD_NAMES,
    BAD_WINDOWS,
    THREADS,
    Contract,
    Parts,
    check_members,
    in_threads,
    interrupted,
)


class SuccessFailureTrackerContract(Contract, ABC):
    """Every sentence of `SuccessFailureTracker`; ``make`` returns a tracker."""

    @pytest.fixture
    def tracker(self, parts: Parts) -> SuccessFailureTracker:
        """Return the tracker."""
        assert parts.tracker is not None, "make() has to return a tracker"
        check_members(parts.tracker, SuccessFailureTracker)
        return parts.tracker

    def rate(self, parts: Parts, operation: str, window: timedelta | None = None) -> float:
        """Read a success rate."""
        assert parts.tracker is not None
        self.settle(parts)
        return parts.tracker.get_success_rate(operation, window)

    def failures(self, parts: Parts, operation: str, window: timedelta | None = None) -> dict[str, int]:
        """Read a failure breakdown."""
        assert parts.tracker is not None
        self.settle(parts)
        return parts.tracker.get_failure_breakdown(operation, window)

    def test_the_rate_is_the_share_of_successes(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """Three of four is 0.75."""
        for _ in range(3):
            tracker.record_success("op")
        tracker.record_failure("op", "timeout")
        assert self.rate(parts, "op") == pytest.approx(0.75)

    def test_all_or_nothing(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """Only successes give 1.0, only failures 0.0."""
        tracker.record_success("good")
        tracker.record_failure("bad", "timeout")
        assert self.rate(parts, "good") == 1.0
        assert self.rate(parts, "bad") == 0.0

    def test_failures_are_counted_by_kind(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """The breakdown lists only recorded error types, and no successes."""
        tracker.record_success("op")
        assert self.failures(parts, "op") == {}
        for kind in ("timeout", "refused", "timeout"):
            tracker.record_failure("op", kind)
        assert self.failures(parts, "op") == {"timeout": 2, "refused": 1}

    def test_operations_are_separate(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """Each operation has its own outcomes."""
        tracker.record_success("one")
        tracker.record_failure("other", "timeout")
        assert self.failures(parts, "one") == {}
        assert self.rate(parts, "one") == 1.0

    def test_changing_a_result_has_no_effect(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """The caller owns each result and may change it."""
        tracker.record_failure("op", "timeout")
        self.failures(parts, "op")["timeout"] = 5
        assert self.failures(parts, "op") == {"timeout": 1}

    def test_metadata_makes_no_difference(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """Metadata describes an event and does not separate series."""
        tracker.record_success("op", {"user": "a"})
        tracker.record_success("op", {"user": "b"})
        tracker.record_failure("op", "timeout", {"user": "c", "rows": [1, 2]})
        assert self.rate(parts, "op") == pytest.approx(2 / 3)
        assert self.failures(parts, "op") == {"timeout": 1}

    def test_an_operation_that_was_never_tracked_is_unknown(
        self, tracker: SuccessFailureTracker, parts: Parts
    ) -> None:
        """The error names the nearest known operation."""
        tracker.record_success("db.query")
        for read in (self.rate, self.failures):
            with pytest.raises(UnknownMetricError, match=r"db\.query"):
                read(parts, "db.qeury")

    def test_a_window_holds_what_happened_in_it(
        self, tracker: SuccessFailureTracker, parts: Parts, clock: ManualClock
    ) -> None:
        """Older events are not in the window, but in the result since the start."""
        self.need_windows()
        tracker.record_failure("op", "timeout")
        clock.advance(3_600)
        tracker.record_success("op")
        tracker.record_failure("op", "refused")
        clock.advance(30)
        assert self.rate(parts, "op", timedelta(minutes=10)) == pytest.approx(0.5)
        assert self.failures(parts, "op", timedelta(minutes=10)) == {"refused": 1}
        assert self.rate(parts, "op") == pytest.approx(1 / 3)
        assert self.failures(parts, "op") == {"timeout": 1, "refused": 1}

    def test_a_window_without_events_is_a_success(
        self, tracker: SuccessFailureTracker, parts: Parts, clock: ManualClock
    ) -> None:
        """A known operation without events in the window has a rate of 1.0 and no failures."""
        self.need_windows()
        tracker.record_failure("op", "timeout")
        clock.advance(3_600)
        assert self.rate(parts, "op", timedelta(minutes=10)) == 1.0
        assert self.failures(parts, "op", timedelta(minutes=10)) == {}

    def test_without_windows_all_is_since_the_start(
        self, tracker: SuccessFailureTracker, parts: Parts, clock: ManualClock
    ) -> None:
        """A backend without windows returns everything since the start, or rejects the window."""
        if self.keeps_windows:
            pytest.skip("this backend keeps windows")
        tracker.record_failure("op", "timeout")
        clock.advance(3_600)
        try:
            found = self.rate(parts, "op", timedelta(minutes=10)), self.failures(parts, "op", timedelta(1))
        except InvalidInputError:
            return
        assert found == (0.0, {"timeout": 1})

    @pytest.mark.parametrize("window", BAD_WINDOWS, ids=repr)
    def test_a_window_is_a_positive_duration(
        self, tracker: SuccessFailureTracker, parts: Parts, window: Any
    ) -> None:
        """Anything else raises an error that quotes it."""
        self.need_windows()
        tracker.record_success("op")
        for read in (self.rate, self.failures):
            with pytest.raises(InvalidInputError) as caught:
                read(parts, "op", window)
            assert repr(window) in str(caught.value)

    @pytest.mark.parametrize("bad", BAD_NAMES, ids=repr)
    def test_names_are_strings(self, tracker: SuccessFailureTracker, parts: Parts, bad: Any) -> None:
        """Any other operation or error type raises an error that quotes it, and nothing is recorded."""
        tracker.record_success("op")
        calls: list[Callable[[], object]] = [
            lambda: tracker.record_success(bad),
            lambda: tracker.record_failure(bad, "timeout"),
            lambda: tracker.record_failure("op", bad),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError) as caught:
                call()
            assert repr(bad) in str(caught.value)
        assert self.rate(parts, "op") == 1.0
        assert self.failures(parts, "op") == {}

    def test_threads_lose_nothing(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """Outcomes reported by concurrent threads are all counted."""
        times = 1_000

        def work(_: int) -> None:
            for index in range(times):
                if index % 4:
                    tracker.record_success("op")
                else:
                    tracker.record_failure("op", f"kind {index % 3}")

        in_threads(work)
        assert self.rate(parts, "op") == pytest.approx(0.75)
        assert sum(self.failures(parts, "op").values()) == THREADS * times / 4

    def test_a_signal_handler_may_report(self, tracker: SuccessFailureTracker, parts: Parts) -> None:
        """A report in the middle of another neither blocks nor loses anything."""
        self.need_reentry()
        done, interrupts = interrupted(
            lambda: tracker.record_success("op"), lambda: tracker.record_failure("op", "signal")
        )
        assert sum(self.failures(parts, "op").values()) == interrupts
        assert self.rate(parts, "op") == pytest.approx(done / (done + interrupts))
