"""A timeline has the peaks of any times, in a limited number of slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.telemetry.summary import MAX_TIMELINE_SLOTS, PeakTimeline


def timeline(*points: tuple[int, float]) -> list[float]:
    """Return the values of a timeline with these points."""
    made = PeakTimeline()
    for time_ns, value in points:
        made.add(time_ns, value)
    return made.values()


def test_a_timeline_without_points_is_empty():
    """Values are not invented."""
    assert timeline() == []


def test_a_slot_has_its_largest_value():
    """A slot without a value repeats the one before."""
    assert timeline((10, 1), (12, 5), (12, 3), (13, 2)) == [1, 1, 5, 2]


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63), st.floats(0, 1e12)), min_size=1, max_size=40))
def test_any_times_fit_into_the_slots(points):
    """The largest value is never lost, and the order of adding does not matter."""
    values = timeline(*points)
    assert 1 <= len(values) <= MAX_TIMELINE_SLOTS
    assert max(values) == max(value for _, value in points)
    assert values == timeline(*reversed(points)) == timeline(*sorted(points))
