"""Memory over time, whatever the times are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.telemetry.summary import MAX_TIMELINE_SLOTS, PeakTimeline


def course(*points: tuple[int, float]) -> list[float]:
    """Return the values of a course of points."""
    made = PeakTimeline()
    for time_ns, value in points:
        made.add(time_ns, value)
    return made.values()


def test_a_course_without_points_is_empty():
    """Nothing is made up."""
    assert course() == []


def test_a_stretch_has_its_largest_value():
    """Where nothing was measured it is the last one."""
    assert course((10, 1), (12, 5), (12, 3), (13, 2)) == [1, 1, 5, 2]


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63), st.floats(0, 1e12)), min_size=1, max_size=40))
def test_any_times_are_kept_in_few_slots(points):
    """In any order; the largest value of all is never lost, and the order of adding says nothing."""
    values = course(*points)
    assert 1 <= len(values) <= MAX_TIMELINE_SLOTS
    assert max(values) == max(value for _, value in points)
    assert values == course(*reversed(points)) == course(*sorted(points))
