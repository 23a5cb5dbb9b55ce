"""Output shared by the commands: number formats, tables, escaping, failures and the exit code of Ctrl-C."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metrics_framework.batch.progress import Progress
from metrics_framework.snapshots import parse_flat_key
from metrics_framework.values import MetricUnit

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

_TABLE_COLUMNS_WITHOUT_TERMINAL = 200
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and undecodable bytes
_UNIT_SUFFIXES = {
    MetricUnit.MEGABYTES: " MB",
    MetricUnit.PERCENT: " %",
    MetricUnit.OPERATIONS_PER_SECOND: "/s",
}


def escape_control(text: str) -> str:
    """Escape control characters, so that names and tags from files cannot send commands to the terminal."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def print_failure(progress: Progress, headline: str, text: str, max_lines: int) -> None:
    """Print a failure and the last lines of its error output above the progress."""
    progress.print(escape_control(headline), "bold red")
    for line in text.splitlines()[-max_lines:]:
        progress.print(escape_control(f"  {line}"))


# -- numbers -----------------------------------------------------------------------------------------------


def format_duration(milliseconds: float) -> str:
    """Format a duration with three significant digits, in µs, ms or s.

    Example:
        >>> format_duration(0.01234), format_duration(12.34), format_duration(1234.5), format_duration(90_000)
        ('12.3 µs', '12.3 ms', '1.23 s', '90 s')
    """
    rounded = _to_three_digits(milliseconds)  # 999.7 ms is 1 s
    if rounded < 1:
        return f"{format_number(milliseconds * 1e3)} µs"
    if rounded < 1e3:
        return f"{format_number(milliseconds)} ms"
    return f"{format_number(milliseconds / 1e3)} s"


def format_number(number: float) -> str:
    """Format a number with three significant digits, or as an integer with thousands separators.

    Example:
        >>> format_number(0.98765), format_number(1234567.0), format_number(3)
        ('0.988', '1,234,567', '3')
    """
    if number < 100:
        number = _to_three_digits(number)  # 99.96 is 100, not 100.0
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:#.3g}"


def format_count(number: int, noun: str) -> str:
    """Format a number of things: ``1 run``, ``1,234 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(number: float) -> str:
    """Format a number of bytes with three significant digits; 1 MB is 10^6 bytes.

    Example:
        >>> format_bytes(512), format_bytes(26_377_000), format_bytes(80e9)
        ('512 B', '26.4 MB', '80 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if _to_three_digits(number) < 1e3:
            return f"{format_number(number)} {unit}"
        number /= 1e3
    return f"{format_number(number)} TB"


def format_measurement(key: str, number: float) -> str:
    """Format a measurement of a snapshot with the unit that its flat key implies.

    Example:
        >>> format_measurement("latency.p95", 12.34), format_measurement("custom.jobs", 3)
        ('12.3 ms', '3')
    """
    unit = parse_flat_key(key).unit
    if unit is MetricUnit.MILLISECONDS:
        return format_duration(number)
    return format_number(number) + _UNIT_SUFFIXES.get(unit, "")


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw values as a row of bars, with heights relative to the largest value.

    If there are more values than ``width``, each bar is the largest of several values, so that outliers show.

    Example:
        >>> sparkline([1, 2, 4, 8])
        '▁▂▄█'
    """
    top = max(values, default=0.0)
    columns = min(len(values), width)
    edges = [len(values) * column // max(columns, 1) for column in range(columns + 1)]
    highest = [max(values[start:end]) for start, end in pairwise(edges)]
    bars = "▁▂▃▄▅▆▇█"
    return "".join(
        bars[max(0, math.ceil(value / top * len(bars)) - 1)] if top else bars[0] for value in highest
    )


def _to_three_digits(number: float) -> float:
    return float(f"{number:.3g}")


# -- tables ------------------------------------------------------------------------------------------------


def wide_console() -> Console:
    """Return the console of standard output; without a terminal it does not wrap lines at 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=_TABLE_COLUMNS_WITHOUT_TERMINAL)


def label_table(title: str) -> Table:
    """Return a table of labels and values, without headings."""
    table = Table(title=table_title(title), show_header=False, title_justify="left", box=box.SIMPLE)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    return table


def add_label(table: Table, label: str, value: str, style: str = "") -> None:
    """Add a row to a table of labels and values."""
    table.add_row(
        Text(escape_control(label), style=style), Text(escape_control(value), style=style or "cyan")
    )


def add_cells(table: Table, *cells: str) -> None:
    """Add a row of cells to a table with headings."""
    table.add_row(*(Text(escape_control(cell)) for cell in cells))


def table_title(title: str) -> Text:
    """Return the title of a table. It is a Text, because a name like ``http[get]`` is not markup."""
    return Text(escape_control(title), style="bold not italic")
