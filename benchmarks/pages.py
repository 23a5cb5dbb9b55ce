"""The tables of the README and the documentation, made from the results of the last run of each benchmark.

``python -m benchmarks.pages`` writes them all again, and measures nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks import recording
from benchmarks.peers import BASE, OURS, PURE
from benchmarks.plot import MEASURED
from benchmarks.tables import Report

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = Path(__file__).with_name("results")
"""The results of each benchmark, except those of `recording`, which keeps more numbers: `plot.MEASURED`."""

BLOCK = re.compile(r"(?<=^<!-- measured: )(.+?) -->\n\n.*?\n(?=<!-- end -->$)", re.MULTILINE | re.DOTALL)

OTEL = "OpenTelemetry"
NOTHING = "–"


def save(name: str, report: Report) -> None:
    """Keep the results of a benchmark."""
    if name != "recording":
        text = json.dumps(report.to_data(), indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(f"{text}\n", "utf-8")
    load.cache_clear()


@cache
def load(name: str) -> Report:
    """Return the results of the last run of a benchmark."""
    if name == "recording":
        return recording.tables(json.loads(MEASURED.read_text("utf-8")))
    return Report.from_data(json.loads((RESULTS / f"{name}.json").read_text("utf-8")))


def filled(page: str) -> str:
    """Return the text of a page with its marked tables made again."""
    return BLOCK.sub(lambda block: f"{block[1]} -->\n\n{_table(block[1]).to_markdown()}\n", page)


def write() -> None:
    """Write all tables into the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")


def _table(name: str) -> Report:
    return DERIVED[name]() if name in DERIVED else load(name)


# -- figures -----------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """A measured value as its table shows it, and its ratio to prometheus_client if the table has it."""

    text: str
    ratio: str | None

    @property
    def value(self) -> float:
        """Return the value."""
        return float(self.text.rstrip("%"))


class Line(NamedTuple):
    """A line of a table that quotes a benchmark.

    Attributes:
        label: What the line says.
        benchmark: The name of the benchmark.
        table: The first words of the title of its table.
        row: The row. If the libraries are the rows, it is the column.
        unit: Follows each value.
        ours: The column with our value.
    """

    label: str
    benchmark: str
    table: str
    row: str
    unit: str
    ours: str = OURS

    def figures(self) -> dict[str, Figure]:
        """Return the figure of each library."""
        _, columns, rows = next(
            table for table in load(self.benchmark).tables if table.title.startswith(self.table)
        )
        if self.row in columns:
            place = columns.index(self.row) + 1
            cells = {row[0].removesuffix(", scraped"): row[place] for row in rows}
        else:
            _, *row = next(row for row in rows if row[0] == self.row)
            cells = {column.removesuffix(" SDK"): cell for column, cell in zip(columns, row, strict=True)}
        figures = {}
        for name, cell in cells.items():
            if found := re.match(r"([\d.]+%?)(?: \(([\d.]+)\))?", cell):
                figures[name] = Figure(found[1], found[2] if BASE in cells else None)
        return figures


def ratio(line: Line) -> float:
    """Return our value as a multiple of that of prometheus_client."""
    figures = line.figures()
    given = figures[line.ours].ratio
    return float(given) if given else figures[line.ours].value / figures[BASE].value


TIMES = ("recording", "Recording")
MEMORY = ("recording", "Resident bytes")
COUNTER = Line("increment a counter, 2 000 series", *TIMES, "counter, 2 000 series", "ns")
HISTOGRAM = Line("record into a histogram, 2 000 series", *TIMES, "histogram, 2 000 series", "ns")
SMALL_COUNTER = Line("memory of a counter", *MEMORY, "counter", "B")
SMALL_HISTOGRAM = Line("memory of a histogram of 3 values", *MEMORY, "histogram of 3 values", "B")
BIG_HISTOGRAM = Line("memory of a histogram of 10 000 values", *MEMORY, "histogram of 10 000 values", "B")
SCRAPE = Line(
    "scrape 10 000 histograms that changed",
    *("scraping", "A scrape", "10 000 histograms, every value changed since the last one", "ms"),
)
BLOCKED = Line(
    "longest block of the event loop of a scraped service", "service", "Blocks", "longest, ms", "ms"
)
RARE_COUNTER = Line(
    "a counter that records once a second, and so closes a time slot each time",
    *(*TIMES, "2 000 counters, each once a second", "ns"),
)
RARE_HISTOGRAM = Line(
    "a histogram that records once a second", *TIMES, "2 000 histograms, each once a second", "ns"
)
PURE_COUNTER = COUNTER._replace(label="the pure engine: a counter, 2 000 series", ours=PURE)
PURE_HISTOGRAM = HISTOGRAM._replace(label="the pure engine: a histogram, 2 000 series", ours=PURE)

SUMMARY = [
    COUNTER._replace(label="increment a counter, one of 2 000 series"),
    HISTOGRAM._replace(label="record into a histogram, one of 2 000 series"),
    SMALL_COUNTER,
    SMALL_HISTOGRAM._replace(label="memory of a histogram with 3 values"),
    BIG_HISTOGRAM._replace(label="memory of a histogram with 10 000 values"),
    SCRAPE._replace(label="scrape 10 000 changed histograms"),
    BLOCKED._replace(label="longest block of a busy event loop, with 2 000 histograms"),
]
FASTER = [
    COUNTER,
    HISTOGRAM,
    Line("`measure` a block: its time and outcome", *TIMES, "measure", "ns"),
    RARE_COUNTER,
    SMALL_COUNTER,
    SMALL_HISTOGRAM,
    SCRAPE,
    BLOCKED,
    Line("scrape after 1000 workers have ended", "processes", "A scrape", "1000 dead workers", "ms"),
    Line(
        "export 10 000 changed histograms by OTLP",
        *("exporting-otlp", "An export", "10 000 histograms, every value changed", "ms"),
    ),
]
SLOWER = [
    PURE_COUNTER,
    PURE_HISTOGRAM,
    RARE_COUNTER._replace(label="the pure engine: 2 000 counters, each once a second", ours=PURE),
    SMALL_COUNTER._replace(label="the pure engine: memory of a counter", ours=PURE),
    BIG_HISTOGRAM,
    Line(
        "memory of 30 days of time windows, for each histogram name",
        *("recording", "Bytes of the time windows", "histogram", "B"),
    ),
    Line("shared files of four workers", "processes", "Files", "0 dead workers", "MB"),
    Line("memory of the scraped process, 100 dead workers", "processes", "Memory", "100 dead workers", "MB"),
    Line(
        "the first scrape after 20 workers were killed",
        *("processes", "The first scrape", "20 dead workers", "ms"),
    ),
]
SECTIONS = {
    "recording": "recording",
    "scraping": "scraping",
    "service": "a-service-under-load",
    "processes": "several-processes",
    "exporting-otlp": "exporting-by-otlp",
}
"""Benchmark to its heading in docs/benchmarks.md."""


# -- tables that quote others ------------------------------------------------------------------------------


def summary() -> Report:
    """Return the table of the README."""
    report = Report()
    report.table("", [BASE, "metrics-framework", "ratio"])
    for line in SUMMARY:
        figures = line.figures()
        values = (_grouped(figures[name].value) for name in (BASE, OURS))
        factor = ratio(line)
        shown = f"{factor:.2f}" if factor >= 0.01 else f"{factor:.1g}"
        report.row(line.label, [*(f"{value} {line.unit}" for value in values), shown])
    report.row("quantiles, time windows, streams and snapshots in the process", ["no", "yes", ""])
    return report


def beside_others(lines: list[Line]) -> Report:
    """Return a table of docs/why.md."""
    report = Report()
    report.table("", ["metrics-framework", BASE, OTEL])
    for line in lines:
        figures = line.figures()
        cells = []
        for name in (line.ours, BASE, OTEL):
            value, given = figures.get(name, Figure(NOTHING, None))
            told = f" ({given})" if given and name != BASE else ""
            cells.append(f"{value} {line.unit}{told}" if name in figures else NOTHING)
        report.row(f"[{line.label}](benchmarks.md#{SECTIONS[line.benchmark]})", cells)
    return report


VERDICTS = {
    "20 jobs of history, 1 job": "20 and 1 jobs",
    "20 jobs of history, 5 jobs": "20 and 5 jobs",
    "10 jobs on each side": "10 and 10 jobs",
    "10 pairs": "10 pairs",
}
OTHER_RULES = {
    "FlameIQ's threshold of 10 %, one run each": "FlameIQ at 10 %",
    "bootstrap of the samples, one run each": "bootstrap",
    "Mann-Whitney test of the samples, one run each": "Mann-Whitney",
}


def compared() -> Report:
    """Return the table of docs/compare.md: jobs that differ by 2 %."""
    report = Report()
    columns = ["false alarms", "+10 % found", "+20 % found"]
    report.table("the comparison", columns)
    for label, row in VERDICTS.items():
        found = Line(label, "verdicts", "Drift of 2%", row, "").figures()
        report.row(label, [_spaced(found[column].text) for column in columns])
    others = other_rules(2)
    for label, rule in OTHER_RULES.items():
        shares = [f"{others[f'{rule}, {what}'].value:.0f} %" for what in ("same", "+10 %")]
        report.row(label, [*shares, NOTHING])
    return report


def other_rules(drift: int) -> dict[str, Figure]:
    """Return how often other rules report a regression, where jobs differ by some percent."""
    return Line("", "verdicts", "Other rules", f"drift of {drift}%", "").figures()


def real_comparisons() -> Report:
    """Return the table of docs/compare.md about a real machine."""
    report = Report()
    report.table("slower by", ["comparisons", "found to be a regression"])
    for row in load("verdicts-real").tables[0].rows:
        report.row(_spaced(row[0]), [row[1], _spaced(row[2])])
    return report


DERIVED: dict[str, Callable[[], Report]] = {
    "summary": summary,
    "faster": lambda: beside_others(FASTER),
    "slower": lambda: beside_others(SLOWER),
    "compared": compared,
    "real comparisons": real_comparisons,
}
"""The tables that quote others, by the names that the pages have for them."""


# -- sentences that quote tables ---------------------------------------------------------------------------


def quotations() -> dict[str, list[str]]:
    """Return page to the phrases that it must contain, with their figures from the results."""
    rare = [ratio(line) for line in (RARE_COUNTER, RARE_HISTOGRAM)]
    pure = [ratio(line) for line in (PURE_COUNTER, PURE_HISTOGRAM)]
    busy = RARE_HISTOGRAM.figures()
    shares = [f"{busy[engine].value * 2_000 / 1e7:.1f} %" for engine in (OURS, PURE)]
    patterns = (r"^(\d+) cells", r"(\d+) reports each", r"at most ([\d.]+)%", r"([\d.]+)% on average")
    said = load("verdicts").sentences[0]
    cells, reports, worst, average = (
        float(found[1]) for pattern in patterns if (found := re.search(pattern, said))
    )
    wrong = [other_rules(10)[f"{rule}, same"].value for rule in OTHER_RULES.values()]
    real = load("verdicts-real").tables[0]
    slower = [dict(zip(real.columns, row[1:], strict=True)) for row in real.rows if row[0] in ("5%", "10%")]
    undecided, detectable = (
        _spaced(" to ".join(sorted({row[column] for row in slower})))
        for column in ("inconclusive", "detectable")
    )
    return {
        "README.md": [
            f"costs {max(rare):.1f} times as much as with prometheus_client",
            f"takes {min(pure):.0f} to {max(pure):.0f} times as long as prometheus_client over 2 000 series",
        ],
        "docs/why.md": [
            f"record once a second take {shares[0]} of a core, with the pure engine {shares[1]}.",
        ],
        "docs/compare.md": [
            f"Over all {_grouped(cells)} simulated cells",
            f"a false alarm in {average:.1f} % of the cases on average",
            f"the worst cell in {worst:.1f} %, as chance allows for cells of {_grouped(reports)} reports",
            f"other rules give a false alarm in {min(wrong):.0f} to {max(wrong):.0f} % of the reports",
            f"5 % and 10 % slower, {undecided} were inconclusive",
            f"they could have found {detectable}.",
        ],
    }


def _grouped(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _spaced(text: str) -> str:
    return text.replace("%", " %")


if __name__ == "__main__":
    write()
