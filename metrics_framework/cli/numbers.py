"""Numbers as people read them."""

from __future__ import annotations


def duration(milliseconds: float) -> str:
    """Return a duration with three digits that count and the unit that suits it.

    Example:
        >>> duration(0.01234), duration(12.34), duration(1234.5), duration(90_000)
        ('12.3 µs', '12.3 ms', '1.23 s', '90 s')
    """
    if milliseconds < 1:
        return f"{_three_digits(milliseconds * 1e3)} µs"
    if milliseconds < 1e3:
        return f"{_three_digits(milliseconds)} ms"
    return f"{_three_digits(milliseconds / 1e3)} s"


def plain(number: float) -> str:
    """Return a number with three digits that count, and thousands set apart.

    Example:
        >>> plain(0.98765), plain(1234567.0), plain(3)
        ('0.988', '1,234,567', '3')
    """
    return _three_digits(number)


def _three_digits(number: float) -> str:
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    if number < 0.001:
        return f"{number:.3g}"
    digits = 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:,.{digits}f}"
