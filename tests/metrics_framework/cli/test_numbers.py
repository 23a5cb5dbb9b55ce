"""Numbers as the tables show them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.cli.numbers import duration, plain, sparkline

MILLISECONDS = {"µs": 1e-3, "ms": 1.0, "s": 1e3}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 µs"),
        (0.0001234, "0.123 µs"),
        (0.01234, "12.3 µs"),
        (0.9994, "999 µs"),
        (0.9996, "1 ms"),
        (1, "1 ms"),
        (1.5, "1.50 ms"),
        (12.34, "12.3 ms"),
        (99.96, "100 ms"),
        (999.4, "999 ms"),
        (999.7, "1 s"),
        (1234.5, "1.23 s"),
        (90_000, "90 s"),
        (3_600_000, "3,600 s"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(milliseconds: float, text: str) -> None:
    """Durations read as people write them: three digits, in microseconds, milliseconds or seconds."""
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (3, "3"),
        (3.0, "3"),
        (0.98765, "0.988"),
        (0.5, "0.500"),
        (0.0123, "0.0123"),
        (0.99996, "1"),
        (9.996, "10"),
        (12.34, "12.3"),
        (99.94, "99.9"),
        (99.96, "100"),
        (123.4, "123"),
        (1234.5678, "1,235"),
        (1234567.0, "1,234,567"),
    ],
)
def test_a_plain_number_has_three_digits_that_count(number: float, text: str) -> None:
    """Numbers are rounded to three digits, but never lose whole ones, and thousands are set apart."""
    assert plain(number) == text


@given(st.floats(1e-6, 1e12))
def test_a_rounded_number_is_near_the_number(number: float) -> None:
    """Whatever the number, what is shown is within half a percent of it and has at most three digits."""
    text = plain(number)
    assert float(text.replace(",", "")) == pytest.approx(number, rel=0.005)
    if number < 999:
        digits = text.partition("e")[0].replace(".", "").lstrip("0")
        assert len(digits) <= 3


@given(st.floats(1e-6, 1e12))
def test_a_duration_can_be_read_back(milliseconds: float) -> None:
    """Whatever the duration, number and unit together are within half a percent of it."""
    number, unit = duration(milliseconds).split(" ")
    assert float(number.replace(",", "")) * MILLISECONDS[unit] == pytest.approx(milliseconds, rel=0.005)
    if unit != "s":
        assert re.fullmatch(r"[\d.]{1,7}(e-\d+)?", number)


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([0.0, 0.0], "▁▁"),
        ([5.0], "█"),
        ([7.0, 7.0, 7.0], "███"),
        ([1, 2, 4, 8], "▁▂▄█"),
        ([0, 8], "▁█"),
        ([1e-9, 1.0], "▁█"),
    ],
)
def test_a_sparkline_is_a_bar_for_each_value(values: list[float], bars: str) -> None:
    """Each bar is as high as its value's share of the largest."""
    assert sparkline(values) == bars


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), st.integers(1, 50))
def test_a_sparkline_fits_and_keeps_the_outlier(values: list[float], width: int) -> None:
    """Never wider than asked for, and the largest value is a full bar in its place however many there are."""
    bars = sparkline(values, width)
    assert len(bars) == min(len(values), width)
    if max(values) > 0:
        assert bars[values.index(max(values)) * len(bars) // len(values) :].count("█") >= 1


def test_a_sparkline_of_many_values_shows_each_stretch() -> None:
    """With more values than bars, every bar is the largest of its stretch, in the order of time."""
    values = [1.0] * 100
    values[3], values[57], values[99] = 8.0, 4.0, 6.0
    bars = sparkline(values, 10)
    assert bars == "█▁▁▁▁▄▁▁▁▆"
