"""The line chart for the terminal."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_framework.cli.chart import HEIGHT_LINES, chart

ENDS = ("2026-01-01", "2026-01-02")


def drawn(lines: list[str], upright: str = "|") -> list[str]:
    """Return the part to the right of the axis."""
    return [line.partition(upright)[2] for line in lines[:HEIGHT_LINES]]


def test_the_line_is_continuous() -> None:
    """The largest value is at the top, the smallest at the bottom, and the line has no gaps."""
    rows = drawn(chart([1, 3, 2], str, ENDS, width=21, ascii_only=True))
    columns = ["".join(row[place : place + 1] or " " for row in rows) for place in range(16)]
    assert all("*" in column for column in columns)
    assert columns[0].endswith("*")
    assert "*" in rows[0]
    assert columns[-1].rstrip().endswith("*")


def test_the_axes_have_labels() -> None:
    """The largest, middle and smallest value are labels of one axis, both ends of the other."""
    lines = chart([10, 30], "{:.0f} ms".format, ENDS, width=40)
    assert [line[:5] for line in (lines[0], lines[HEIGHT_LINES // 2], lines[HEIGHT_LINES - 1])] == [
        "30 ms",
        "20 ms",
        "10 ms",
    ]
    assert lines[-2] == "      └" + "─" * 33
    assert lines[-1] == "       2026-01-01             2026-01-02"


@pytest.mark.parametrize("place", [0, 1, 500, 998, 999])
def test_an_outlier_is_visible(place: int) -> None:
    """An outlier shows even among more values than columns."""
    values = [5.0] * 1_000
    values[place] = 9.0
    rows = drawn(chart(values, str, ENDS, width=30, ascii_only=True))
    assert "*" in rows[0]
    assert "*" in rows[-1]


@given(st.lists(st.floats(0, 1.7e308), min_size=1, max_size=60), st.integers(1, 60), st.booleans())
@example([0.0], 1, True)
@example([1.7e308, 1.7e308, 0.0], 20, False)
@example([5e-324, 0.0], 20, False)
@example([1.0, 1.0000000000000002], 20, False)
def test_any_values_fit(values: list[float], width: int, ascii_only: bool) -> None:
    """For any values, the chart has its height, no line is too long, and something is drawn."""
    lines = chart(values, lambda _: "x", ENDS, width=width, ascii_only=ascii_only)
    assert len(lines) == HEIGHT_LINES + 2
    assert all(len(line) <= max(width, 4) for line in lines)
    picture = "".join(drawn(lines, "|" if ascii_only else "│"))
    assert set(picture) - {" ", "\u2800"}
    assert not ascii_only or "".join(lines).isascii()
