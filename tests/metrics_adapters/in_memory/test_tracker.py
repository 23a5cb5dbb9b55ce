"""The in-memory tracker has success rates and failures by type, in total and in windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from metrics_adapters.in_memory import InMemoryTracker
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.recording import Budgets, Store

MINUTE = timedelta(minutes=1)


@pytest.fixture
def tracker(clock: ManualClock) -> InMemoryTracker:
    """Return a tracker on a store of the test's clock."""
    return InMemoryTracker(Store(clock))


@pytest.mark.smoke
def test_the_rate_is_the_share_of_successes():
    """Three successes and a failure are 75 %."""
    tracker = InMemoryTracker()
    for _ in range(3):
        tracker.record_success("git.commit", {"files": 3})
    tracker.record_failure("git.commit", "conflict")
    assert tracker.get_success_rate("git.commit") == 0.75


def test_the_rate_reaches_from_zero_to_one(tracker):
    """Only failures are 0.0, only successes 1.0."""
    tracker.record_failure("bad", "timeout")
    tracker.record_success("good")
    assert (tracker.get_success_rate("bad"), tracker.get_success_rate("good")) == (0.0, 1.0)


def test_the_breakdown_counts_each_kind(tracker):
    """Each error type has the number of its failures, and kinds that never happened are not listed."""
    for error_type in ("network", "auth", "network"):
        tracker.record_failure("git.clone", error_type)
    tracker.record_success("git.clone")
    tracker.record_failure("git.push", "timeout")
    assert tracker.get_failure_breakdown("git.clone") == {"network": 2, "auth": 1}
    tracker.record_success("git.pull")
    assert tracker.get_failure_breakdown("git.pull") == {}


def test_windows_look_back_only_so_far(tracker, clock):
    """A window counts its own events. Without a window, all events since the start count."""
    for _ in range(8):
        tracker.record_failure("operation", "old")
    clock.advance(3_600)
    tracker.record_success("operation")
    tracker.record_failure("operation", "new")
    assert tracker.get_success_rate("operation", MINUTE) == 0.5
    assert tracker.get_failure_breakdown("operation", MINUTE) == {"new": 1}
    assert tracker.get_success_rate("operation") == 0.1
    assert tracker.get_failure_breakdown("operation") == {"old": 8, "new": 1}


def test_a_window_without_events_has_full_success(tracker, clock):
    """A known operation without recent events did not fail."""
    tracker.record_failure("operation", "old")
    clock.advance(3_600)
    assert tracker.get_success_rate("operation", MINUTE) == 1.0
    assert tracker.get_failure_breakdown("operation", MINUTE) == {}


@pytest.mark.parametrize(
    "ask",
    [
        lambda tracker: tracker.get_success_rate("git.puhs"),
        lambda tracker: tracker.get_success_rate("git.puhs", MINUTE),
        lambda tracker: tracker.get_failure_breakdown("git.puhs"),
        lambda tracker: tracker.recent_failures("git.puhs"),
    ],
)
def test_an_operation_that_was_never_tracked_is_an_error(tracker, ask):
    """The error suggests a similar operation."""
    tracker.record_success("git.push")
    with pytest.raises(UnknownMetricError, match=r"'git.puhs'.*Did you mean 'git.push'"):
        ask(tracker)


@pytest.mark.parametrize("window", [timedelta(0), timedelta(days=31), -MINUTE])
def test_a_window_that_is_not_kept_is_an_error(tracker, window):
    """A window of zero, or beyond the retention, is refused."""
    tracker.record_success("operation")
    with pytest.raises(InvalidInputError, match="time_window"):
        tracker.get_success_rate("operation", window)
    with pytest.raises(InvalidInputError, match="time_window"):
        tracker.get_failure_breakdown("operation", window)


def test_recent_failures_have_their_metadata(tracker, clock):
    """A failure is kept with its kind, a copy of its metadata and its time, the newest last."""
    metadata = {"repo": "origin"}
    tracker.record_failure("git.push", "auth", metadata)
    metadata["repo"] = "changed"
    clock.advance(60)
    tracker.record_failure("git.push", "timeout")
    tracker.record_success("git.push", {"not": "a failure"})
    first, second = tracker.recent_failures("git.push")
    assert (first.error_type, first.metadata) == ("auth", {"repo": "origin"})
    assert (second.error_type, second.metadata) == ("timeout", {})
    assert (first.timestamp, second.timestamp) == (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("metadata", [5, "text", ["a list"]])
def test_metadata_that_is_not_a_mapping_is_an_error(tracker, metadata):
    """Nothing is counted. With `on_error="log"` the failure is counted without the metadata."""
    with pytest.raises(InvalidInputError, match=r"^metadata=.* is not a mapping, like"):
        tracker.record_failure("operation", "timeout", metadata)
    tolerant = InMemoryTracker(Store(on_error="log"))
    tolerant.record_failure("operation", "timeout", metadata)
    assert tolerant.get_failure_breakdown("operation") == {"timeout": 1}
    assert [failure.metadata for failure in tolerant.recent_failures("operation")] == [{}]
    assert tolerant.store.rejected == 1
    tracker.record_failure("operation", "timeout")
    assert tracker.get_failure_breakdown("operation") == {"timeout": 1}


def test_recent_failures_are_bounded(tracker):
    """The last twenty are kept, and all are counted."""
    for number in range(1_000):
        tracker.record_failure("operation", "timeout", {"number": number})
    assert [failure.metadata["number"] for failure in tracker.recent_failures("operation")] == list(
        range(980, 1_000)
    )
    assert tracker.get_failure_breakdown("operation") == {"timeout": 1_000}


@pytest.mark.parametrize("name", ["", None, 3])
def test_names_are_strings(tracker, name):
    """The class of an exception is not an error type."""
    with pytest.raises(InvalidInputError, match="operation name"):
        tracker.record_success(name)
    with pytest.raises(InvalidInputError, match="operation name"):
        tracker.record_failure(name, "timeout")
    with pytest.raises(InvalidInputError, match="error type"):
        tracker.record_failure("operation", name)
    assert tracker.store.outcome_readings() == []


def test_a_tracker_does_not_time(tracker):
    """Tracking feeds the tracker alone."""
    tracker.record_success("operation")
    assert tracker.store.timing_readings() == []


def test_windows_follow_the_clock(tracker, clock):
    """Rate and breakdown of a window contain its own events only."""
    for minute in range(60):
        tracker.record_success("operation")
        tracker.record_failure("operation", "even" if minute % 2 == 0 else "odd")
        if minute >= 55:
            tracker.record_failure("operation", "late")
        clock.advance(60)
    window = timedelta(minutes=5)
    assert tracker.get_success_rate("operation", window) == pytest.approx(5 / 15, abs=0.04)
    breakdown = tracker.get_failure_breakdown("operation", window)
    assert breakdown["late"] == 5
    assert 5 <= breakdown["even"] + breakdown["odd"] <= 6
    assert tracker.get_failure_breakdown("operation") == {"even": 30, "odd": 30, "late": 5}
    assert tracker.get_success_rate("operation") == 60 / 125


@pytest.mark.parametrize("name", ["", None, 3, ["a"]])
def test_bad_names_are_not_an_error_if_errors_are_logged(clock, name):
    """With `on_error="log"` a bad operation or error type is counted as rejected."""
    tracker = InMemoryTracker(Store(clock, on_error="log"))
    tracker.record_failure("operation", "timeout")
    tracker.record_success(name)
    tracker.record_failure(name, "timeout")
    tracker.record_failure("operation", name)
    assert tracker.store.rejected == 3
    assert tracker.store.recorded == 1
    assert tracker.get_failure_breakdown("operation") == {"timeout": 1}
    assert len(tracker.recent_failures("operation")) == 1


def test_failures_keep_their_own_kind_past_the_budget(clock):
    """Recent failures keep their error type, also beyond the budget."""
    tracker = InMemoryTracker(Store(clock, budgets=Budgets(error_types=1)))
    for error_type in ("first", "second", "third"):
        tracker.record_failure("operation", error_type)
    assert tracker.get_failure_breakdown("operation") == {"first": 1, "__other__": 2}
    assert [each.error_type for each in tracker.recent_failures("operation")] == ["first", "second", "third"]


def test_trackers_on_one_store_are_one(clock):
    """Each tracker has the counts of the other."""
    store = Store(clock)
    InMemoryTracker(store).record_failure("operation", "timeout")
    InMemoryTracker(store).record_success("operation")
    assert InMemoryTracker(store).get_success_rate("operation") == 0.5
    assert InMemoryTracker().store is not InMemoryTracker().store
