"""Progress on standard error: a bar on a terminal if rich is installed, else a line every few seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TextIO, TypeVar

from metrics_framework.batch.files import Batch
from metrics_framework.clock import Clock

if TYPE_CHECKING:
    from rich.text import Text

T = TypeVar("T")

LINE_SECONDS = 5.0
"""Least time between two lines without a terminal."""

_UPDATE_NS = 100_000_000
_DRAW_SECONDS = 0.05
_LEAST_BAR_CELLS = 4
"""Columns of the bar on a narrow terminal, with the gaps before, between and after the texts."""


class Progress(Protocol):
    """A progress display; `Track` and the command line rely on it."""

    def update(self, done: int, errors: int, note: str = "") -> None:
        """Show how many items are done, how many of them failed, and a note on the last one."""
        ...

    def print(self, line: str, style: str = "") -> None:
        """Print a line above the bar, in a style of rich if there is a bar."""
        ...

    def stop(self) -> None:
        """Remove the bar, or show the final state."""
        ...


def make_progress(
    title: str,
    total: int | None,
    clock: Clock,
    stream: TextIO | None = None,
    *,
    last_line: bool = True,
) -> Progress:
    """Return the progress display for a stream.

    Args:
        title: What the items are.
        total: Number of items; ``None`` if unknown.
        clock: Measures the elapsed time.
        stream: Where it is shown; standard error by default.
        last_line: Whether the final state stays on the screen. Pass ``False`` if a report follows.
    """
    stream = stream or sys.stderr
    title = " ".join(title.split())  # a command line may have several lines
    if stream is not None and stream.isatty():
        with suppress(ImportError):
            return ProgressBar(title, total, clock, stream, last_line=last_line)
    return ProgressLines(title, total, clock, stream, last_line=last_line)


class _Rate:
    """Computes how many items are done per second, and the time left."""

    def __init__(self, total: int | None, clock: Clock) -> None:
        self._total = total
        self._clock = clock
        self._begin_ns = clock.monotonic_ns()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return (self._clock.monotonic_ns() - self._begin_ns) / 1e9

    def describe(self, done: int, errors: int, note: str) -> str:
        """Return the number of errors, the rate and the time left, if known, and the note."""
        seconds = self.seconds
        parts = [f"{errors:,} {'error' if errors == 1 else 'errors'}"]
        if done and seconds > 0:
            rate = done / seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if self._total is not None and done < self._total:
                parts.append(f"{_format_seconds((self._total - done) / rate)} left")
        return ", ".join([*parts, note] if note else parts)


class ProgressLines:
    """Prints a line every `LINE_SECONDS`, and one at the end unless ``last_line`` is false."""

    def __init__(
        self, title: str, total: int | None, clock: Clock, stream: TextIO | None, *, last_line: bool = True
    ) -> None:
        self._title = title
        self._total = total
        self._stream = stream
        self._last_line = last_line
        self._rate = _Rate(total, clock)
        self._next_line = LINE_SECONDS
        self._current = (0, 0, "")
        self._printed = (0, 0, "")

    def update(self, done: int, errors: int, note: str = "") -> None:
        """Print a line if `LINE_SECONDS` have passed since the previous one."""
        self._current = (done, errors, note)
        if self._rate.seconds >= self._next_line:
            self._print_current()
            self._next_line = self._rate.seconds + LINE_SECONDS

    def print(self, line: str, style: str = "") -> None:
        """Print a line without a style."""
        # A closed or missing stream must not end the batch.
        with suppress(OSError, ValueError, AttributeError):
            print(line, file=self._stream, flush=True)

    def stop(self) -> None:
        """Print the last line if it would differ from the previous one."""
        if self._last_line and self._current != self._printed:
            self._print_current()

    def _print_current(self) -> None:
        done, _, _ = self._printed = self._current
        of_total = "" if self._total is None else f" of {self._total:,}"
        self.print(f"{self._title}: {done:,}{of_total} done, {self._rate.describe(*self._current)}")


class ProgressBar:
    """Draws a bar with rich. It is erased at the end unless ``last_line`` is true.

    Raises:
        ImportError: If rich is not installed.
    """

    def __init__(
        self, title: str, total: int | None, clock: Clock, stream: TextIO, *, last_line: bool = True
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._title = title
        self._count_cells = 2 * len(str(total or "?")) + 1
        self._rate = _Rate(total, clock)
        self._next_draw = 0.0
        self._bar: Any = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[rate]}", markup=False),
            console=Console(file=stream),
            transient=not last_line,
            # Text for the same terminal is printed above the bar. All other output is left alone.
            redirect_stdout=_is_same_file(sys.stdout, stream),
            redirect_stderr=_is_same_file(sys.stderr, stream),
            auto_refresh=False,  # a thread that draws would slow a command that is measured
        )
        self._task = self._bar.add_task("", total=total, rate="")
        self._current = (0, 0, "")
        self._draw()
        self._bar.start()

    def update(self, done: int, errors: int, note: str = "") -> None:
        """Redraw the bar, at most every `_DRAW_SECONDS`."""
        self._current = (done, errors, note)
        if self._rate.seconds >= self._next_draw:
            self._draw()
            self._next_draw = self._rate.seconds + _DRAW_SECONDS

    def print(self, line: str, style: str = "") -> None:
        """Print a line above the bar."""
        from rich.text import Text

        # Text, not str: output of a command such as ":boom:" or "[x]" is not markup.
        self._bar.console.print(Text(line, style), soft_wrap=True)

    def stop(self) -> None:
        """Draw the latest state once, and remove the bar or leave it."""
        self._draw()
        self._bar.stop()

    def _draw(self) -> None:
        """Draw the latest state. Title and rate are shortened if necessary, so that the count is whole."""
        done, errors, note = self._current
        width = self._bar.console.width
        title = self._shorten(self._title, width // 3)
        rate_cells = width - title.cell_len - self._count_cells - _LEAST_BAR_CELLS
        rate = self._shorten(self._rate.describe(done, errors, note), rate_cells)
        self._bar.update(self._task, completed=done, description=title.plain, rate=rate.plain, refresh=True)

    @staticmethod
    def _shorten(text: str, cells: int) -> Text:
        from rich.text import Text

        shortened = Text(text)
        shortened.truncate(max(cells, 1), overflow="ellipsis")
        return shortened


def _is_same_file(one: TextIO | None, other: TextIO) -> bool:
    """Return whether two streams write to the same file, such as one terminal."""
    if one is None:  # in a process without standard streams, such as a service
        return False
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):  # a stream without a descriptor, such as a StringIO
        return one is other


def _format_seconds(seconds: float) -> str:
    """Return a duration with at most two units: ``12 s``, ``3:05 min`` or ``2:07 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"


class Track(Generic[T]):
    """The iterable that `BatchMetrics.track` returns. An item is done when the next one is requested."""

    def __init__(
        self, batch: Batch, items: Iterable[T] | AsyncIterable[T], total: int | None, title: str
    ) -> None:
        self._batch = batch
        self._items = items
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._title = title

    def __iter__(self) -> Iterator[T]:
        if not isinstance(self._items, Iterable):
            raise TypeError("the items are an async iterable: use `async for`")
        with self._progress() as advance:
            for item in self._items:
                yield item
                advance()

    async def __aiter__(self) -> AsyncIterator[T]:
        with self._progress() as advance:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    yield item
                    advance()
            else:
                for item in self._items:
                    yield item
                    advance()

    @contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        """Show the progress of one loop. Yields what to call after each item."""
        batch, clock = self._batch, self._batch.clock
        progress = make_progress(self._title, self._total, clock)
        errors_before = batch.counts.errors
        done = next_ns = 0

        def update() -> None:
            progress.update(done, batch.counts.errors - errors_before)

        def advance() -> None:
            nonlocal done, next_ns
            done += 1
            now = clock.monotonic_ns()
            if now >= next_ns:
                update()
                next_ns = now + _UPDATE_NS

        try:
            yield advance
        finally:
            update()
            progress.stop()
