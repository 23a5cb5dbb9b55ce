"""Tables for the terminal, for the documentation, and for the files that keep the results of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class ResultTable(NamedTuple):
    """A table: what its rows are, its columns, and for each row a label and a cell for each column."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class Report:
    """Tables after a sentence."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.tables: list[ResultTable] = []

    def say(self, sentence: str) -> None:
        """Add a sentence."""
        self.sentences.append(sentence)

    def table(self, title: str, columns: list[str]) -> None:
        """Begin a table."""
        self.tables.append(ResultTable(title, columns, []))

    def row(self, label: str, cells: list[str]) -> None:
        """Add a row to the last table."""
        self.tables[-1].rows.append([label, *cells])

    def show(self) -> None:
        """Print everything."""
        console = Console()
        for sentence in self.sentences:
            console.print(sentence)
        for title, columns, rows in self.tables:
            table = Table("", title=title, title_justify="left")
            for column in columns:
                table.add_column(column, justify="right")
            for row in rows:
                table.add_row(*row)
            console.print(table)

    def to_markdown(self) -> str:
        """Return everything as Markdown."""
        parts = list(self.sentences)
        for title, columns, rows in self.tables:
            lines = [f"| {title} | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
            lines += [f"| {' | '.join(row)} |" for row in rows]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def to_data(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {"sentences": self.sentences, "tables": [table._asdict() for table in self.tables]}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Report:
        """Return the report that `to_data` was called on."""
        report = cls()
        report.sentences = data["sentences"]
        report.tables = [ResultTable(**table) for table in data["tables"]]
        return report
