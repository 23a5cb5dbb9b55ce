"""Clocks: the machine's, and the manual clock of tests."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.clock import SYSTEM_CLOCK, ManualClock, SystemClock, utc
from metrics_framework.recording import engine

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def test_the_system_clock_reads_the_machine():
    """Its wall time is the machine's time of day; its monotonic time never decreases."""
    before, reading, after = time.time_ns(), SystemClock().time_ns(), time.time_ns()
    assert before <= reading <= after
    readings = [SYSTEM_CLOCK.monotonic_ns() for _ in range(1_000)]
    assert readings == sorted(readings)


def test_the_system_clock_and_the_engine_share_one_time_line():
    """After the import of recording, both read time with the same function."""
    assert SYSTEM_CLOCK.monotonic_ns is engine.monotonic_ns
    before, reading, after = time.perf_counter_ns(), engine.monotonic_ns(), time.perf_counter_ns()
    assert before <= reading <= after or sys.platform == "win32"


def test_a_clock_needs_no_engine():
    """Importing the module of clocks does not import recording."""
    code = "import sys, metrics_framework.clock as c; c.SYSTEM_CLOCK.monotonic_ns(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "metrics_framework.clock" in done.stdout.split()
    assert not any(name.startswith("metrics_framework.recording") for name in done.stdout.split())


def test_a_manual_clock_stands_still():
    """Only the test advances it."""
    clock = ManualClock()
    assert (clock.monotonic_ns(), clock.time_ns()) == (clock.monotonic_ns(), clock.time_ns())
    assert utc(clock) == datetime(2026, 1, 1, tzinfo=UTC)


@given(MOMENTS)
def test_a_manual_clock_begins_at_its_start(start):
    """The start is exact to the microsecond."""
    clock = ManualClock(start)
    assert utc(clock) == start
    assert clock.monotonic_ns() == 0


def test_a_start_in_another_zone_is_the_same_moment():
    """An aware datetime in any time zone is accepted."""
    assert utc(ManualClock(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))) == datetime(
        2026, 1, 1, tzinfo=UTC
    )


@given(st.lists(st.integers(0, 10**6), max_size=5))
def test_advancing_moves_both_readings(milliseconds):
    """Monotonic and wall time advance by the same amount, and steps add up."""
    clock = ManualClock()
    wall = clock.time_ns()
    for step in milliseconds:
        clock.advance(step / 1e3)
    assert clock.monotonic_ns() == sum(milliseconds) * 1_000_000
    assert clock.time_ns() - wall == clock.monotonic_ns()


def test_time_does_not_run_backwards():
    """A negative amount raises an error with the remedy, and changes nothing."""
    clock = ManualClock()
    with pytest.raises(ValueError, match="set_wall"):
        clock.advance(-0.1)
    assert clock.monotonic_ns() == 0


@given(MOMENTS)
def test_setting_the_wall_leaves_the_monotonic_reading(moment):
    """Running measurements are not affected when the time of day is set."""
    clock = ManualClock()
    clock.advance(5)
    clock.set_wall(moment)
    assert utc(clock) == moment
    assert clock.monotonic_ns() == 5_000_000_000


def test_a_reading_in_utc_is_aware():
    """A timestamp has a time zone."""
    assert utc(SYSTEM_CLOCK).tzinfo is UTC
