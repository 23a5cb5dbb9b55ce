"""What is recorded into: one series of each kind, which is also the bound instrument that users hold.

A record checks its number, looks at the clock and appends to the buffer of its series. That is all that
happens but once in some hundreds of times, when the series' `Ledger` is asked to fold the buffer. The append
is one call into C, so a record is there or it is not, whatever interrupts it.
"""

from __future__ import annotations

import sys
from collections.abc import Container
from typing import Any, NamedTuple, Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.ledger import MANY, UNCUT, Ledger
from metrics_framework.recording.series import milliseconds, plain_number
from metrics_framework.values import MetricUnit

MAX = sys.float_info.max
MIN = -MAX
# Of infinity and NaN, value - value is NaN: the fastest way to ask whether a float is finite.
SMALL = (1 << 30) - 1
"""Integers up to here are compared fastest; larger ones take the slow path."""

MINUS_SMALL = -SMALL

MILLISECONDS = MetricUnit.MILLISECONDS  # looking a member up costs as much as reading the clock

FEW = 8
"""How many records may wait in a buffer when its slot ends."""


class Home(Protocol):
    """What a series knows of the metric that it belongs to."""

    @property
    def name(self) -> str:
        """The metric's name."""
        ...

    @property
    def error_types(self) -> Container[str]:
        """The error types that an operation has seen, as far as its budget goes."""
        ...

    def tags_of(self, key: Any) -> dict[str, str]:
        """Return the tags that a series' key stands for."""
        ...

    def admit(self, series: Series) -> Series | None:
        """Return the series to record into in place of ``series``: itself, unless it was removed.

        Returns:
            ``None`` where another kind of metric has the name now, and that was counted.
        """
        ...

    def admit_error_type(self, error_type: str) -> str:
        """Return what a new error type is counted as."""
        ...

    def refuse(self, error: InvalidInputError) -> None:
        """Raise an error, or count it."""
        ...


class Series:
    """One series of a metric: the base of what is recorded into.

    Attributes:
        buffer: What stands for the records that left it (`Cut`), then those that are in it. The first one of
            a slot is a pair of itself and its time in nanoseconds.
        state: What was published: a trace, `Counted` or nothing.
        slot_end: When the slot of the last record ends; 0 where the next record has to look around first.
    """

    __slots__ = ("buffer", "home", "key", "ledger", "slot_end", "state")

    signed = False

    def __init__(self, home: Home, key: Any, ledger: Ledger) -> None:
        self.home = home
        self.key = key
        self.ledger = ledger
        self.reset()

    def reset(self) -> None:
        """Begin anew, at the start or in a child process; nobody else may be at work."""
        self.buffer: list[Any] = [UNCUT]
        self.state: Any = None
        self.slot_end = 0

    @property
    def tags(self) -> dict[str, str]:
        """The tags that make it this series."""
        return self.home.tags_of(self.key)

    def enter(self, record: Any, now: int) -> None:
        """Append the first record of a slot."""
        live = self.home.admit(self)
        if live is not self:
            if live is not None:
                live.enter(record, now)
            return
        self.buffer.append((record, now))
        ledger = self.ledger
        self.slot_end = ledger.slot_end(now)
        if len(self.buffer) > FEW:
            ledger.relieve(self)
            return
        ledger.entered.append(self)
        if len(ledger.entered) > MANY:
            ledger.relieve_entered()

    def checked(self, value: object) -> int | float | None:
        """Return a number that is none of the usual ones, or ``None`` where it was refused and counted.

        Raises:
            InvalidInputError: If it is no number that this series can take.
        """
        try:
            return plain_number(self.home.name, value, signed=self.signed)
        except InvalidInputError as error:
            self.home.refuse(error)
            return None


class CounterSeries(Series):
    """A counter of one set of tags."""

    __slots__ = ()

    def add(self, value: int | float = 1) -> None:
        """Add to the counter.

        Args:
            value: How much: finite and not negative.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if (value.__class__ is not int or not 0 <= value <= SMALL) and (
            value.__class__ is not float or not 0.0 <= value <= MAX
        ):
            checked = self.checked(value)
            if checked is None:
                return
            value = checked
        ledger = self.ledger
        clock = ledger.now
        now = clock()
        if now < self.slot_end:
            buffer = self.buffer
            buffer.append(value)
            if len(buffer) > ledger.limit:
                ledger.relieve(self)
        else:
            self.enter(value, now)


class HistogramSeries(Series):
    """A histogram of one set of tags."""

    __slots__ = ()

    signed = True

    def observe(self, value: int | float) -> None:
        """Add a value to the distribution.

        Args:
            value: The value: finite, of either sign.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if (value.__class__ is not float or value - value != 0.0) and (
            value.__class__ is not int or not MINUS_SMALL <= value <= SMALL
        ):
            checked = self.checked(value)
            if checked is None:
                return
            value = checked
        ledger = self.ledger
        clock = ledger.now
        now = clock()
        if now < self.slot_end:
            buffer = self.buffer
            buffer.append(value)
            if len(buffer) > ledger.limit:
                ledger.relieve(self)
        else:
            self.enter(value, now)


class TimerSeries(Series):
    """A timer of one set of tags."""

    __slots__ = ()

    def observe(self, duration: float, unit: MetricUnit = MetricUnit.MILLISECONDS) -> None:
        """Add a duration.

        Args:
            duration: How long: finite and not negative.
            unit: What ``duration`` is counted in: seconds, milliseconds or microseconds.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if unit is not MILLISECONDS or duration.__class__ is not float or not 0.0 <= duration <= MAX:
            checked = self._in_milliseconds(duration, unit)
            if checked is None:
                return
            duration = checked
        ledger = self.ledger
        clock = ledger.now
        now = clock()
        if now < self.slot_end:
            buffer = self.buffer
            buffer.append(duration)
            if len(buffer) > ledger.limit:
                ledger.relieve(self)
        else:
            self.enter(duration, now)

    def _in_milliseconds(self, duration: object, unit: MetricUnit) -> float | None:
        number = self.checked(duration)
        try:
            return None if number is None else milliseconds(self.home.name, number, unit)
        except InvalidInputError as error:
            self.home.refuse(error)
            return None

    def elapse(self, milliseconds: float, now: int) -> None:
        """Add a duration that was measured with the ledger's clock and ended at ``now``."""
        if now < self.slot_end:
            buffer = self.buffer
            buffer.append(milliseconds)
            if len(buffer) > self.ledger.limit:
                self.ledger.relieve(self)
        else:
            self.enter(milliseconds, now)

    def time(self) -> Stopwatch:
        """Time a ``with`` block, also one that raises."""
        stopwatch = Stopwatch()  # a constructor in Python would cost as much as all the rest of it
        stopwatch.series = self
        return stopwatch


class Stopwatch:
    """Times one ``with`` block.

    Attributes:
        series: Where the duration goes.
    """

    __slots__ = ("_start_ns", "series")

    series: TimerSeries

    def __enter__(self) -> None:
        self._start_ns = self.series.ledger.now()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        series = self.series
        ledger = series.ledger
        clock = ledger.now
        now = clock()
        if now < series.slot_end:
            buffer = series.buffer
            buffer.append((now - self._start_ns) / 1e6)
            if len(buffer) > ledger.limit:
                ledger.relieve(series)
        else:
            series.enter((now - self._start_ns) / 1e6, now)


class OutcomeSeries(Series):
    """How an operation ends, for one set of tags."""

    __slots__ = ()

    def finish(self, error_type: str | None) -> None:
        """Count an ending: with an error of a type, or with success where there is none."""
        if error_type is not None and error_type not in self.home.error_types:
            error_type = self.home.admit_error_type(error_type)
        ledger = self.ledger
        clock = ledger.now
        now = clock()
        if now < self.slot_end:
            buffer = self.buffer
            buffer.append(error_type)
            if len(buffer) > ledger.limit:
                ledger.relieve(self)
        else:
            self.enter(error_type, now)


class GaugeSeries(Series):
    """A gauge of one set of tags.

    What is recorded goes into the buffer of the ledger, each with its time: what a gauge with several series
    is as a whole depends on the order between them.
    """

    __slots__ = ()

    signed = True

    def set(self, value: int | float) -> None:
        """Set the gauge.

        Args:
            value: What it is from now on: finite.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if (value.__class__ is not float or value - value != 0.0) and (
            value.__class__ is not int or not MINUS_SMALL <= value <= SMALL
        ):
            checked = self.checked(value)
            if checked is None:
                return
            value = checked
        ledger: Any = self.ledger
        clock = ledger.now
        now = clock()
        if now < self.slot_end:
            buffer = ledger.buffer
            buffer += (self, value, now)  # one call into C, like an append
            if len(buffer) > ledger.limit:
                ledger.relieve(ledger)
        else:
            self.enter(value, now)

    def increment(self, step: int | float = 1) -> None:
        """Move the gauge up.

        Args:
            step: How far: finite.

        Raises:
            InvalidInputError: If it is anything else.
        """
        self._move(UP if step.__class__ is int and step == 1 else step, 1)

    def decrement(self, step: int | float = 1) -> None:
        """Move the gauge down.

        Args:
            step: How far: finite.

        Raises:
            InvalidInputError: If it is anything else.
        """
        self._move(DOWN if step.__class__ is int and step == 1 else step, -1)

    def _move(self, step: Any, sign: int) -> None:
        if step.__class__ is not Step:
            checked = self.checked(step)
            if checked is None:
                return
            step = Step(sign * checked)
        ledger: Any = self.ledger
        clock = ledger.now
        now = clock()
        if now < self.slot_end:
            buffer = ledger.buffer
            buffer += (self, step, now)
            if len(buffer) > ledger.limit:
                ledger.relieve(ledger)
        else:
            self.enter(step, now)

    def enter(self, record: Any, now: int) -> None:
        """Append the first record of a slot."""
        if now >= self.slot_end:
            live = self.home.admit(self)
            if live is not self:
                if live is not None:
                    live.enter(record, now)
                return
            self.slot_end = self.ledger.slot_end(now)
        ledger: Any = self.ledger
        buffer = ledger.buffer
        buffer += (self, record, now)
        if len(buffer) > ledger.limit:
            ledger.relieve(ledger)


class Step(NamedTuple):
    """A gauge's move from wherever it is."""

    by: int | float


UP, DOWN = Step(1), Step(-1)
