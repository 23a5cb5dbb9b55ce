"""Tables for the terminal and for the documentation."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


class Report:
    """Tables after a sentence."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._tables: list[tuple[str, list[str], list[list[str]]]] = []

    def say(self, sentence: str) -> None:
        """Add a sentence."""
        self._said.append(sentence)

    def table(self, title: str, columns: list[str]) -> None:
        """Begin a table."""
        self._tables.append((title, columns, []))

    def row(self, label: str, cells: list[str]) -> None:
        """Add a row to the last table."""
        self._tables[-1][2].append([label, *cells])

    def show(self) -> None:
        """Print everything."""
        console = Console()
        for sentence in self._said:
            console.print(sentence)
        for title, columns, rows in self._tables:
            table = Table("", title=title, title_justify="left")
            for column in columns:
                table.add_column(column, justify="right")
            for row in rows:
                table.add_row(*row)
            console.print(table)

    def to_markdown(self) -> str:
        """Return everything as Markdown."""
        parts = list(self._said)
        for title, columns, rows in self._tables:
            lines = [f"| {title} | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
            lines += [f"| {' | '.join(row)} |" for row in rows]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"
