"""Runs every benchmark, prints its tables, and writes them into the documentation.

``python -m benchmarks [ROUNDS]``
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import exporting_otlp, facade, import_time, recording, scraping
from benchmarks.tables import Report

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: {} -->\n", "<!-- end -->\n"


def main() -> None:
    """Run them one after the other: side by side they would slow each other down."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else recording.ROUNDS
    write("import", import_time.main())
    write("facade", facade.main())
    write("recording", recording.main(rounds))
    write("scraping", scraping.main(rounds))
    write("exporting-otlp", exporting_otlp.main(rounds))


def write(what: str, report: Report) -> None:
    """Put the tables of a benchmark in the place of the last ones."""
    text, begin = PAGE.read_text(), BEGIN.format(what)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        sys.exit(f"{PAGE} has no place for {what!r}: {begin.strip()} … {END.strip()}")
    PAGE.write_text(f"{before}{begin}\n{report.to_markdown()}\n{END}{after}")


if __name__ == "__main__":
    main()
