"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from metrics_framework.cli.numbers import duration

LINE_SECONDS = 5.0
"""Where there is no terminal, how long to wait between two lines at least."""

_SHOWN_LINES = 10


class Progress:
    """Shows how far a number of steps has got.

    Args:
        console: Where to.
        title: What is going on.
        total: How many steps there are.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done = 0
        self._next_line = monotonic() + LINE_SECONDS
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("last {task.fields[last]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, last="none")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, step: str, seconds: float) -> None:
        """Say that a step ended, and how long it took."""
        self._done += 1
        took = duration(seconds * 1e3)
        self._bar.update(self._task, advance=1, last=took)
        if not self._console.is_terminal and monotonic() >= self._next_line:
            self._print(f"{self._title}: {step}, {self._done} of {self._total} done, last {took}")
            self._next_line = monotonic() + LINE_SECONDS

    def say(self, headline: str, text: str) -> None:
        """Print a headline and the last lines of a text, above the bar."""
        self._print(headline, "bold red")
        for line in text.splitlines()[-_SHOWN_LINES:]:
            self._print(f"  {line}")

    def _print(self, line: str, style: str = "") -> None:
        # Text, not str: in what a command writes, ":boom:" is no picture and "[x]" no markup.
        self._console.print(Text(line, style), soft_wrap=True)
