"""Output shared by the commands: bars, tables, escaping, failures and the exit code of Ctrl-C."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from itertools import pairwise

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metrics_framework.batch.progress import Progress

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

_TABLE_COLUMNS_WITHOUT_TERMINAL = 200
_UNPRINTABLE = re.compile(
    # Control characters, undecodable bytes, line separators, and characters that hide or reorder text.
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)

_WORKFLOW_COMMANDS = re.compile(r"^\s*::|##\[")


def escape_control(text: str) -> str:
    """Escape control characters and bidirectional marks of names and tags from files and servers.

    They can neither send commands to the terminal nor change the order of the text beside them.
    """
    if os.environ.get("GITHUB_ACTIONS"):  # where lines of the log can be commands
        text = _WORKFLOW_COMMANDS.sub(lambda found: f"{found[0][:-1]} {found[0][-1]}", text)
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def print_failure(progress: Progress, headline: str, text: str, max_lines: int) -> None:
    """Print a failure and the last lines of its error output above the progress."""
    progress.print(escape_control(headline), "bold red")
    for line in text.splitlines()[-max_lines:]:
        progress.print(escape_control(f"  {line}"))


# -- charts ------------------------------------------------------------------------------------------------


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
