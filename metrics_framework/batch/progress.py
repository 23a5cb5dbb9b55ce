"""How far a batch has got: a bar where there is a terminal and rich, a line now and then elsewhere."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Protocol, TextIO

from metrics_framework.clock import Clock

LINE_SECONDS = 5.0
"""How long to wait between two lines at least."""


class Progress(Protocol):
    """Shows how far it has got; `Track` and the command line rely on it."""

    def update(self, done: int, errors: int) -> None:
        """Say how many are done, and how many of them failed."""
        ...

    def say(self, line: str) -> None:
        """Print something besides."""
        ...

    def stop(self) -> None:
        """Show no more."""
        ...


def make_progress(title: str, total: int | None, clock: Clock, stream: TextIO | None = None) -> Progress:
    """Return what suits a stream.

    Args:
        title: What is going on.
        total: How many there are; ``None`` where nobody knows.
        clock: Where time comes from.
        stream: Where to; standard error by default.
    """
    stream = stream or sys.stderr
    if stream is not None and stream.isatty():
        with suppress(ImportError):
            return Bar(title, total, clock, stream)
    return Lines(title, total, clock, stream)


class Pace:
    """How fast it goes."""

    def __init__(self, total: int | None, clock: Clock) -> None:
        self._total = total
        self._clock = clock
        self._begin_ns = clock.monotonic_ns()

    @property
    def seconds(self) -> float:
        """How long it has gone on."""
        return (self._clock.monotonic_ns() - self._begin_ns) / 1e9

    def describe(self, done: int, errors: int) -> str:
        """Return the errors, the rate and the time that remains, as far as they are known."""
        seconds = self.seconds
        parts = [f"{errors:,} {'error' if errors == 1 else 'errors'}"]
        if done and seconds > 0:
            rate = done / seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if self._total is not None and done < self._total:
                parts.append(f"{_clock_time((self._total - done) / rate)} left")
        return ", ".join(parts)


class Lines:
    """Prints a line every `LINE_SECONDS`, and one at the end."""

    def __init__(self, title: str, total: int | None, clock: Clock, stream: TextIO | None) -> None:
        self._title = title
        self._total = total
        self._stream = stream
        self._pace = Pace(total, clock)
        self._next_line = LINE_SECONDS
        self._last = (0, 0)
        self._shown = (0, 0)

    def update(self, done: int, errors: int) -> None:
        """Say how many are done, and how many of them failed."""
        self._last = (done, errors)
        if self._pace.seconds >= self._next_line:
            self._print()
            self._next_line = self._pace.seconds + LINE_SECONDS

    def say(self, line: str) -> None:
        """Print something besides."""
        # Whoever no longer reads the progress does not end the batch.
        with suppress(OSError, ValueError, AttributeError):
            print(line, file=self._stream, flush=True)

    def stop(self) -> None:
        """Print the last line."""
        if self._last != self._shown:
            self._print()

    def _print(self) -> None:
        done, errors = self._shown = self._last
        of_total = "" if self._total is None else f" of {self._total:,}"
        self.say(f"{self._title}: {done:,}{of_total} done, {self._pace.describe(done, errors)}")


class Bar:
    """Draws a bar with rich.

    Raises:
        ImportError: If rich is not installed.
    """

    def __init__(self, title: str, total: int | None, clock: Clock, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._pace = Pace(total, clock)
        self._bar: Any = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, pace="")
        self._bar.start()

    def update(self, done: int, errors: int) -> None:
        """Say how many are done, and how many of them failed."""
        self._bar.update(self._task, completed=done, pace=self._pace.describe(done, errors))

    def say(self, line: str) -> None:
        """Print something above the bar."""
        from rich.text import Text

        # Text, not str: in what a command writes, ":boom:" is no picture and "[x]" no markup.
        self._bar.console.print(Text(line), soft_wrap=True)

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def _clock_time(seconds: float) -> str:
    """Return a time as people say it: ``12 s``, ``3:05 min`` or ``2:07 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
