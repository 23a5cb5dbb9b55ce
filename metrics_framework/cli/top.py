"""``metrics-framework top``: the live numbers of a running service in the terminal."""

from __future__ import annotations

import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.control import Control
from rich.screen import Screen
from rich.text import Text

from metrics_framework.cli.live_metrics import LiveView, Row, Section
from metrics_framework.cli.live_service import ServiceReader, ServiceUrl
from metrics_framework.cli.output import EXIT_INTERRUPTED, escape_control
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.snapshots.formatting import format_bytes, format_duration, format_number
from metrics_framework.values import MetricUnit

TOKEN_VARIABLE = "METRICS_TOKEN"  # noqa: S105 - the name of the variable
"""The environment variable of the bearer token."""

SORT_COLUMNS = ("name", "rate", "p50", "p95", "p99", "failed")
"""The columns by which rows are sorted, from left to right."""

_HEADINGS: dict[Section, str] = {"operations": "operations", "values": "counters and gauges"}
_MAX_LABEL_CHARACTERS = 500
_MIN_NAME_COLUMNS = 12
_MAX_NAME_COLUMNS_WITHOUT_TERMINAL = 120
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_START_REMEDY = (
    "check that the service runs and serves its stream at this URL, or pass another one; to watch this"
    " machine, run metrics-framework serve, and then metrics-framework top http://127.0.0.1:9400"
)


@click.command()
@click.argument("url", default="http://127.0.0.1:9464", metavar="[URL]")
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    help="Bearer token of the service. Prefer the variable: other users can see the arguments of a command.",
)
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Seconds between updates; with --once, how long to measure.",
)
@click.option("--once", is_flag=True, help="Print one table and exit, as without a terminal.")
def top(url: str, token: str | None, interval: float, once: bool) -> None:
    """Show the live numbers of a running service.

    URL is the base URL of the application that metrics_adapters.asgi serves, with its prefix, or the URL of
    its stream; http://127.0.0.1:9464 by default. A query selects series: /stream?name=http.*

    Rates cover the last 10 seconds; percentiles, failures and bars the last minute. Keys: arrows sort and
    select, r reverses the order, / filters, tab switches the section, p pauses, q quits.

    \b
    Exit codes:
      0    quit by q, or the table was printed
      1    the service cannot be reached, or does not accept the token
      2    wrong usage
      130  interrupted by Ctrl-C or SIGTERM

    \b
    Example:
      METRICS_TOKEN=s3cret metrics-framework top http://127.0.0.1:8000/internal
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    try:
        service = ServiceUrl(url)
        reader = ServiceReader(service, token, max(interval, 1.0))
    except InvalidInputError as error:
        raise click.UsageError(escape_control(str(error))) from error
    console = Console()
    is_live = (
        console.is_terminal
        and not console.is_dumb_terminal
        and sys.stdin.isatty()
        and sys.platform != "win32"
    )
    try:
        try:
            reader.start()
        except OutputError as error:
            raise OutputError(f"{error}; {_START_REMEDY}") from None
        if once or not is_live:
            code = _print_once(reader, console, interval)
        else:
            code = _TopScreen(reader, service.base, console, interval).run()
    except OutputError as error:
        raise click.ClickException(escape_control(str(error))) from None
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        reader.close()
    if reader.refusal:
        raise click.ClickException(escape_control(reader.refusal))
    sys.exit(code)


def _print_once(reader: ServiceReader, console: Console, interval: float) -> int:
    time.sleep(interval)
    view = reader.view()
    if reader.refusal:
        return 1
    if not view.is_connected:
        raise OutputError(view.problem)
    sections = select_rows(view, TableState())
    width = console.width
    if not console.is_terminal:
        names = [cell_len(series_label(row)) for rows in sections.values() for row in rows]
        width = TableLayout.of(80).fixed + min(max(names, default=0), _MAX_NAME_COLUMNS_WITHOUT_TERMINAL)
    lines = [process_line(view), machine_line(view), Text()]
    layout = TableLayout.of(max(width, 80), bars=10)
    for section, rows in sections.items():
        lines += [layout.heading(section, len(rows), TableState()), *map(layout.line, rows), Text()]
    for line in lines[:-1]:
        line.rstrip()
        console.print(line, soft_wrap=True)
    return 0


# -- the rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableState:
    """What the user has chosen.

    Attributes:
        sort: The index of the column in `SORT_COLUMNS`.
        is_reversed: Whether the order is reversed: names descend, or numbers ascend.
        filter: The words that a row contains.
        section: The only section that is shown; ``None`` for all.
        selected: The number of the selected row.
    """

    sort: int = 1
    is_reversed: bool = False
    filter: str = ""
    section: Section | None = None
    selected: int = 0


def select_rows(view: LiveView, state: TableState) -> dict[Section, list[Row]]:
    """Return the rows that match the filter, by section, in the order that the user has chosen."""
    words = state.filter.casefold().split()
    found: dict[Section, list[Row]] = {"operations": [], "values": []}
    for row in view.rows:
        if words:
            label = series_label(row).casefold()
            if not all(word in label for word in words):
                continue
        found[row.key.section].append(row)
    return {
        section: _sorted(rows, state)
        for section, rows in found.items()
        if rows and state.section in (None, section)
    }


def _sorted(rows: list[Row], state: TableState) -> list[Row]:
    rows.sort(key=lambda row: row.key[1:])
    column = SORT_COLUMNS[state.sort]
    if column == "name":
        return rows[::-1] if state.is_reversed else rows

    def order(row: Row) -> tuple[bool, float]:
        number = _sort_number(row, column)
        return number is None, (number or 0.0) if state.is_reversed else -(number or 0.0)

    return sorted(rows, key=order)


def _sort_number(row: Row, column: str) -> float | None:
    if column == "rate":
        return row.rate
    if row.key.section == "values":
        return row.value
    number: float | None = row.failures if column == "failed" else getattr(row, column)
    if number is None or column == "failed":
        return number
    return number * _TO_MILLISECONDS.get(row.unit, 1.0)


_TO_MILLISECONDS = {MetricUnit.SECONDS: 1e3, MetricUnit.MICROSECONDS: 1e-3}
_TO_BYTES = {MetricUnit.BYTES: 1.0, MetricUnit.KILOBYTES: 1e3, MetricUnit.MEGABYTES: 1e6}


def series_label(row: Row, *, without_keys: bool = False) -> str:
    """Return the name and the tags of a series, harmless in a terminal and cut at 500 characters.

    Args:
        row: The series.
        without_keys: Whether to leave out the keys of the tags.

    Example:
        >>> from metrics_framework.cli.live_metrics import LiveSeriesKey
        >>> row = Row(LiveSeriesKey("values", "orders", False, (("item", "book"),)), *[None] * 9)
        >>> series_label(row), series_label(row, without_keys=True)
        ('orders item=book', 'orders book')
    """
    parts, left = [], _MAX_LABEL_CHARACTERS
    tags = ((value if without_keys else f"{tag[:left]}={value[:left]}") for tag, value in row.key.tags[:50])
    for text in (row.key.name, *tags):
        if left <= 0:
            break
        parts.append(text[:left])
        left -= len(text)
    return escape_control(" ".join(parts)) + ("…" if left < 0 else "")


def format_value(number: float | None, unit: MetricUnit) -> str:
    """Format a number in at most about nine columns.

    Example:
        >>> format_value(0.25, MetricUnit.SECONDS), format_value(1234567890.0, MetricUnit.COUNT)
        ('250 ms', '1.23 G')
    """
    if number is None:
        return "-"
    if unit in _TO_BYTES:
        return format_bytes(number * _TO_BYTES[unit])
    if unit in _TO_MILLISECONDS or unit is MetricUnit.MILLISECONDS:
        milliseconds = number * _TO_MILLISECONDS.get(unit, 1.0)
        return format_duration(milliseconds) if milliseconds else "0 ms"
    suffix = {MetricUnit.PERCENT: " %", MetricUnit.OPERATIONS_PER_SECOND: "/s"}.get(unit, "")
    for limit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(number) >= max(limit, 1e7):
            scaled = number / limit
            return f"{format_number(scaled) if abs(scaled) < 1e6 else f'{scaled:.3g}'}{prefix}{suffix}"
    return format_number(number) + suffix


def _format_rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return (
        f"{format_number(rate / 1e6)} M/s"
        if 1e6 <= rate < 1e9
        else format_value(rate, MetricUnit.OPERATIONS_PER_SECOND)
    )


def draw_bars(values: Sequence[float | None], width: int) -> str:
    """Draw values as bars, with heights relative to the largest one, and blanks where they are unknown.

    Only zero has the lowest bar.

    Example:
        >>> draw_bars([0, 1, 2, None, 8], 5)
        '▁▂▃ █'
    """
    edges = [len(values) * column // width for column in range(width + 1)]
    means: list[float | None] = []
    for start, end in pairwise(edges):
        known = [value for value in values[start:end] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    lowest = min((mean for mean in means if mean is not None), default=0.0)
    base = min(lowest, 0.0)  # a negative gauge
    highest = max((mean - base for mean in means if mean is not None), default=0.0)
    bars = "▁▂▃▄▅▆▇█"
    return "".join(
        " " if mean is None else bars[min(math.ceil((mean - base) / highest * 7), 7)] if highest else bars[0]
        for mean in means
    )


def _fit_label(row: Row, width: int) -> str:
    """Return the label of a row with exactly this number of columns.

    A label that is too long loses the keys of its tags, then the end of its name, then its middle: the values
    of the tags distinguish the series of one metric.
    """
    label = series_label(row)
    if cell_len(label) > width and row.key.tags:
        label = series_label(row, without_keys=True)
        name = escape_control(row.key.name[:_MAX_LABEL_CHARACTERS])
        values = label.removeprefix(name)
        left = width - cell_len(values)
        if len(values) < len(label) and 3 < left < cell_len(name):
            return set_cell_size(f"{set_cell_size(name, left - 1)}…{values}", width)
    if cell_len(label) <= width:
        return set_cell_size(label, width)
    head = (width - 1) // 2
    tail = label[-width:]
    while cell_len(tail) > width - 1 - head:
        tail = tail[1:]
    return set_cell_size(f"{set_cell_size(label, head)}…{tail}", width)


class TableLayout(NamedTuple):
    """The widths of the columns.

    Attributes:
        name: The columns of the name.
        bars: The columns of the bars.
        errors: The columns of the error types; 0 if they are left out.
    """

    name: int
    bars: int
    errors: int

    @property
    def fixed(self) -> int:
        """The columns of all but the name."""
        return 9 + 3 * 9 + 8 + (self.bars + 1) + (self.errors + 1 if self.errors else 0)

    @classmethod
    def of(cls, width: int, bars: int | None = None) -> TableLayout:
        """Return the layout of a terminal."""
        if bars is None:
            bars = 10 if width < 110 else 20 if width < 150 else 30 if width < 180 else 60
        layout = cls(0, bars, 30 if width >= 150 else 0)
        return layout._replace(name=max(width - layout.fixed, _MIN_NAME_COLUMNS))

    def heading(self, section: Section, count: int, state: TableState) -> Text:
        """Return the heading of a section; an arrow marks the column by which its rows are sorted."""
        arrow = "▲" if state.is_reversed != (state.sort == 0) else "▼"
        sorted_by = SORT_COLUMNS[state.sort]
        labels = {column: column for column in SORT_COLUMNS}
        if section == "values":
            labels.update(p50="", p95="", p99="value", failed="")
            sorted_by = sorted_by if sorted_by in ("name", "rate") else "p99"
        labels["name"] = f"{_HEADINGS[section]} ({count:,})"
        text = Text(style="bold reverse" if state.section == section else "bold")
        for column, width in zip(SORT_COLUMNS, (self.name, 9, 9, 9, 9, 8), strict=True):
            is_sorted = column == sorted_by
            label = labels[column] + (arrow if is_sorted else "")
            cell = set_cell_size(label, width) if column == "name" else f"{label:>{width}}"
            text.append(cell, "cyan" if is_sorted else "")
        text.append(" " + set_cell_size("last min" if self.bars < 11 else "last minute", self.bars))
        if self.errors:
            text.append(" " + set_cell_size("error types" if section == "operations" else "", self.errors))
        return text

    def line(self, row: Row) -> Text:
        """Return the line of a row."""
        is_operation = row.key.section == "operations"
        text = Text(_fit_label(row, self.name), style="" if row.rate != 0 else "dim")
        text.append(f"{_format_rate(row.rate):>9}")
        if is_operation:
            for number in (row.p50, row.p95, row.p99):
                text.append(f"{format_value(number, row.unit):>9}")
            failed = row.failures
            share = "" if failed is None else "0 %" if failed == 0 else f"{format_number(failed * 100)} %"
            text.append(f"{share:>8}", "bold red" if failed else "")
        else:
            text.append(f"{format_value(row.value, row.unit):>27}{'':8}")
        text.append(" ")
        text.append(draw_bars(row.bars, self.bars), "cyan")
        if self.errors and row.error_types:
            types = ", ".join(
                f"{escape_control(name[:_MAX_LABEL_CHARACTERS])} {number:,}"
                for name, number in row.error_types
            )
            text.append(" " + set_cell_size(types, self.errors), "red")
        return text


# -- the lines around the table ------------------------------------------------------------------------------


def state_text(view: LiveView) -> Text:
    """Return whether the numbers are live, or how old they are and why."""
    problem = escape_control(view.problem)
    age = f"last data {_format_age(view.data_age)} ago"
    if not view.is_connected:
        return Text(f"{age}, reconnecting: {problem}", "bold red")
    if problem:
        return Text(f"{age}: {problem}", "bold yellow")
    return Text("live", "green")


def process_line(view: LiveView) -> Text:
    """Return the health, uptime, memory and CPU usage of the process."""
    health, parts = view.health, Text(style="dim" if view.problem else "")
    if not health:
        parts.append("health unknown", "yellow")
    elif view.problem:
        parts.append("was healthy" if health.get("healthy") is True else "was unhealthy")
    elif health.get("healthy") is True:
        parts.append("healthy", "green")
    else:
        parts.append("unhealthy", "bold red")
        share = _finite(health.get("error_rate"))
        if share:
            parts.append(f": {_format_share(share * 100)} failures", "red")
    uptime = _finite(health.get("uptime_seconds"))
    if uptime is not None:
        parts.append(f"  up {_format_age(uptime)}")
    average, peak = ("", "") if view.is_process_current else ("avg ", "peak ")
    used = []
    if (cpu := view.process.get("cpu_percent")) is not None:
        used.append(f"{average}{_format_share(cpu)} CPU")
    if (memory := view.process.get("memory_mb")) is not None:
        used.append(f"{peak}{format_bytes(memory * 1e6)}")
    if used:
        parts.append(f"  process {', '.join(used)}")
    return parts


def machine_line(view: LiveView) -> Text:
    """Return the load of the machine or container, and what the stream delivers."""
    shares = [
        f"{_format_share(number)} {what}"
        for what, key in (("CPU", "cpu_percent"), ("memory", "memory_percent"))
        if (number := _finite(view.health.get(key))) is not None
    ]
    machine = f"machine {', '.join(shares)}  " if shares else ""
    return Text(f"{machine}{format_number(view.events)} records/s  {len(view.rows):,} series")


def _note_line(view: LiveView, state: TableState) -> Text:
    text = Text()
    if state.filter:
        text.append(f"filter: {escape_control(state.filter)}  ", "bold cyan")
    if view.is_full:
        text.append("more series are not shown: pass URL/stream?name=PATTERN  ", "yellow")
    if view.dropped:
        text.append(f"{view.dropped:,} records dropped: percentiles are those of the others  ", "yellow")
    if view.invalid:
        text.append(f"{view.invalid:,} invalid events", "yellow")
    return text


def _format_share(percent: float) -> str:
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %"


def _format_age(seconds: float) -> str:
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    hours = whole // 3600
    return f"{hours} h {whole // 60 % 60:02} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _finite(value: Any) -> float | None:
    return float(value) if value.__class__ in (int, float) and abs(value) < 1e300 else None


# -- the screen ----------------------------------------------------------------------------------------------

_KEYS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z~]|\x1bO[A-Za-z]|.", re.DOTALL)
_MOVES = {"\x1b[A": -1, "\x1bOA": -1, "k": -1, "\x1b[B": 1, "\x1bOB": 1, "j": 1}
_PAGES = {"\x1b[5~": -1, "\x1b[6~": 1}
_ENDS = {"\x1b[H": -(10**9), "\x1b[1~": -(10**9), "\x1b[F": 10**9, "\x1b[4~": 10**9}
_SORTS = {"\x1b[C": 1, "\x1bOC": 1, "l": 1, "\x1b[D": -1, "\x1bOD": -1, "h": -1}
_SECTIONS: tuple[Section | None, ...] = (None, "operations", "values")
_HELP = "q quit  ←→ sort  r reverse  ↑↓ select  / filter  tab section  p pause"


class _TopScreen:
    """Draws the numbers until the user quits.

    Args:
        reader: Reads the service.
        url: Its URL, for the title.
        console: The terminal.
        interval: The seconds between updates.
    """

    def __init__(self, reader: ServiceReader, url: str, console: Console, interval: float) -> None:
        self._reader = reader
        self._url = escape_control(url)
        self._console = console
        self._interval = interval
        self._state = TableState()
        self._offset = 0
        self._rows_shown = 1
        self._below = 0
        self._rows = 0
        self._view = reader.view()
        self._paused_at: float | None = None
        self._edited: str | None = None  # the filter before it is edited

    def run(self) -> int:
        """Draw until the user quits, and return the exit code."""
        code: int | None = None
        with _read_keys() as keys, self._console.screen() as screen:
            while code is None and not self._reader.refusal:
                if self._paused_at is None:
                    self._view = self._reader.view()
                self._draw(screen.screen)
                deadline = time.monotonic() + self._interval
                while code is None and (left := deadline - time.monotonic()) > 0 and not self._reader.refusal:
                    pressed = keys(min(left, 0.5))
                    for key in pressed or ():
                        code = self._handle(key)
                        if code is not None:
                            break
                    if pressed is not None:
                        self._draw(screen.screen)
        return code or 0

    # -- keys ----------------------------------------------------------------------------------------------

    def _handle(self, key: str) -> int | None:
        """Handle a key, and return the exit code if it ends the program."""
        state = self._state
        if key == "\x03":
            return EXIT_INTERRUPTED
        if self._edited is not None:
            self._edit(key)
        elif key in ("q", "Q", "\x04"):
            return 0
        elif key == "/":
            self._edited = state.filter
        elif key == "\x1b":
            self._state = replace(state, filter="", selected=0)
        elif key in _SORTS:
            column = (state.sort + _SORTS[key]) % len(SORT_COLUMNS)
            self._state = replace(state, sort=column, is_reversed=False)
        elif key == "r":
            self._state = replace(state, is_reversed=not state.is_reversed)
        elif key == "\t":
            section = _SECTIONS[(_SECTIONS.index(state.section) + 1) % len(_SECTIONS)]
            self._state = replace(state, section=section, selected=0)
        elif key in ("p", " "):
            self._paused_at = None if self._paused_at else time.monotonic()
        else:
            page = _PAGES.get(key, 0) * max(self._rows_shown - 1, 1)
            self._select(state.selected + _MOVES.get(key, 0) + _ENDS.get(key, 0) + page)
        return None

    def _edit(self, key: str) -> None:
        text = self._state.filter
        if key in ("\r", "\n"):
            self._edited = None
        elif key == "\x1b":
            text, self._edited = self._edited or "", None
        elif key in ("\x7f", "\x08"):
            text = text[:-1]
        elif key == "\x15":
            text = ""
        elif len(key) == 1 and key.isprintable() and len(text) < _MAX_LABEL_CHARACTERS:
            text += key
        self._state = replace(self._state, filter=text, selected=0)

    def _select(self, number: int) -> None:
        self._state = replace(self._state, selected=max(min(number, self._rows - 1), 0))

    # -- drawing -------------------------------------------------------------------------------------------

    def _draw(self, screen: Screen) -> None:
        width, height = self._console.size
        view = self._view
        head = self._head(view, width)
        sections = select_rows(view, self._state)
        self._rows = sum(map(len, sections.values()))
        self._select(self._state.selected)
        body, selected = self._body(sections, width, max(height - len(head) - 2, 1))
        foot = Text()
        if selected is not None:
            foot = Text(series_label(selected), "italic")
            types = ", ".join(f"{name[:100]} {number:,}" for name, number in selected.error_types)
            foot.append(f"  {escape_control(types)}", "red")
        keys = Text(set_cell_size(_HELP, width - 8), "dim")
        if self._below:
            keys.append(f"{f'↓ {self._below:,}':>8}", "bold")
        if self._edited is not None:
            keys = Text(f"/{escape_control(self._state.filter)}█  enter: keep  esc: cancel", "bold cyan")
        lines = [*head, *body, *[Text()] * (height - len(head) - len(body) - 2), foot, keys]
        for line in lines:
            line.no_wrap, line.overflow = True, "crop"
            line.truncate(width, overflow="ellipsis")
        screen.renderable = Group(*lines[:height])
        self._console.control(Control.home())
        self._console.print(screen, end="")

    def _head(self, view: LiveView, width: int) -> list[Text]:
        state = state_text(view)
        if self._paused_at is not None:
            state = Text(f"paused for {_format_age(time.monotonic() - self._paused_at)}", "bold yellow")
        title = Text(self._url, "bold")
        if cell_len(self._url) + 2 + state.cell_len <= width:
            title.append(" " * (width - cell_len(self._url) - state.cell_len))
            lines = [title.append_text(state)]
        else:
            lines = [title, state]
        return [*lines, process_line(view), machine_line(view), _note_line(view, self._state)]

    def _body(
        self, sections: dict[Section, list[Row]], width: int, height: int
    ) -> tuple[list[Text], Row | None]:
        """Return the visible lines of the table, and the selected row. The heading stays visible."""
        self._below = 0
        if not sections:
            fault = "no series matches the filter" if self._state.filter else "nothing is recorded yet"
            return [Text(fault, "dim")], None
        lines: list[tuple[Section | None, Row | None]] = []
        for section, rows in sections.items():
            blank: list[tuple[Section | None, Row | None]] = [(None, None)] if lines else []
            lines += [*blank, (section, None), *((section, row) for row in rows)]
        places = [place for place, (_, row) in enumerate(lines) if row is not None]
        selected = places[self._state.selected]
        self._rows_shown = height - 1
        self._offset = min(self._offset, selected - 1, max(len(lines) - height, 0))
        self._offset = max(self._offset, selected - height + 1, 0)
        self._below = sum(row is not None for _, row in lines[self._offset + height :])
        layout = TableLayout.of(width)
        drawn = []
        for place in range(self._offset, min(self._offset + height, len(lines))):
            at, row = lines[place]
            if at is None:
                drawn.append(Text())
            elif row is None or (place == self._offset and height > 1):
                drawn.append(layout.heading(at, len(sections[at]), self._state))
            else:
                line = layout.line(row)
                if place == selected:
                    line.stylize("reverse")
                drawn.append(line)
        return drawn, lines[selected][1]


@contextmanager
def _read_keys() -> Iterator[Any]:
    """Read single key presses from the terminal, which is restored at the end.

    Yields:
        A function that waits some seconds and returns the keys, or ``None`` if there was nothing. A signal
        that ends the program is the key Ctrl-C, and a new size of the terminal an empty list.
    """
    import termios  # Windows has neither; one table is printed there
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    interrupted = []
    handlers: dict[int, Any] = {
        signal.SIGWINCH: lambda *_: None,
        **{number: lambda *_: interrupted.append(True) for number in _SIGNALS},
    }

    def read(seconds: float) -> list[str] | None:
        ready, _, _ = select.select([stdin, waking], [], [], seconds)
        keys = None
        if waking in ready:
            os.read(waking, 1024)
            keys = ["\x03"] if interrupted else []
        if stdin in ready:
            content = os.read(stdin, 1024)
            # The terminal is gone if there is nothing to read.
            keys = [*(keys or []), *(_KEYS.findall(content.decode(errors="ignore")) or ["\x04"])]
        return keys

    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    earlier_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        tty.setcbreak(stdin)
        changed = termios.tcgetattr(stdin)
        # Ctrl-C, Ctrl-Z and Ctrl-\ become keys: a stopped program would leave the terminal without echo.
        changed[3] &= ~termios.ISIG
        termios.tcsetattr(stdin, termios.TCSANOW, changed)
        yield read
    finally:
        termios.tcsetattr(stdin, termios.TCSAFLUSH, before)
        signal.set_wakeup_fd(earlier_wake)
        for number, handler in earlier.items():
            signal.signal(number, handler)
        os.close(waking)
        os.close(wake)
