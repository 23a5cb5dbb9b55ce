"""The formats of ``compare``: a table, JSON, Markdown, annotations of a GitHub workflow, and JUnit XML.

Names and notes come from files. Each format escapes them, so that they can neither send commands to a
terminal or a workflow nor change the markup.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.compared_runs import ComparedSides
from metrics_framework.cli.output import escape_control, wide_console
from metrics_framework.runtime.atomic_files import replace_file
from metrics_framework.runtime.strict_json import to_indented_json
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.compare import (
    ComparedRun,
    Comparison,
    MetricComparison,
    Verdict,
    number_of_jobs,
)
from metrics_framework.snapshots.formatting import (
    format_change,
    format_count,
    format_measurement,
    format_percent,
)
from metrics_framework.snapshots.keys import SUCCESS_RATE, parse_flat_key

MAX_ROWS = 10
"""Most metrics without a change, or without a verdict, that a table lists by default."""

_MAX_NAMED = 3
_FILE_COLUMNS = 200
_UNLIMITED_COLUMNS = 10_000
_ORDER = (
    Verdict.REGRESSION,
    Verdict.IMPROVEMENT,
    Verdict.CHANGED,
    Verdict.INCONCLUSIVE,
    Verdict.NO_CHANGE,
)
_STYLES = {
    Verdict.REGRESSION: "bold red",
    Verdict.IMPROVEMENT: "green",
    Verdict.CHANGED: "yellow",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NO_CHANGE: "",
}


def write(
    found: Comparison, sides: ComparedSides, format: str, file: Path | None, *, show_all: bool = False
) -> None:
    """Write a comparison to a file, or to standard output.

    Args:
        found: The comparison.
        sides: Its runs.
        format: ``table``, ``json``, ``markdown``, ``github`` or ``junit``.
        file: The file; ``None`` for standard output.
        show_all: Whether tables list all metrics.

    Raises:
        OutputError: If the file cannot be written.
    """
    report = Report(found, sides, show_all=show_all)
    if format == "table" and file is None:
        print_table(report, wide_console())
        return
    text = _FORMATS[format](report)
    if file is None:
        click.echo(text)
    else:
        replace_file(file, f"{text}\n".encode("utf-8", "backslashreplace"))


# -- the words of all formats ------------------------------------------------------------------------------


class Report:
    """A comparison, and what all formats say about it.

    Attributes:
        found: The comparison.
        sides: Its runs.
        rows: The metrics that tables list, the deciding ones first, then by verdict.
    """

    def __init__(self, found: Comparison, sides: ComparedSides, *, show_all: bool) -> None:
        self.found, self.sides = found, sides
        names = {metric.benchmark or "" for metric in found.metrics}
        self._names_benchmarks = len(names) > 1
        # The names of pytest's tests begin with their file.
        files = {"".join(name.rpartition("::")[:2]) for name in names}
        self._prefix = files.pop() if len(files) == 1 else ""
        ordered = sorted(found.metrics, key=lambda one: (not one.is_primary, _ORDER.index(one.verdict)))
        self.rows: list[MetricComparison] = []
        self._omitted: list[MetricComparison] = []
        quiet = 0
        for metric in ordered:
            is_quiet = metric.verdict in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE)
            quiet += is_quiet
            is_listed = show_all or not is_quiet or (metric.is_primary and quiet <= MAX_ROWS)
            (self.rows if is_listed else self._omitted).append(metric)

    def label(self, metric: MetricComparison) -> str:
        """Return the name of a metric, with its benchmark if there are several."""
        benchmark = self.benchmark(metric)
        return metric.key if benchmark is None else f"{benchmark}: {metric.key}"

    def benchmark(self, metric: MetricComparison) -> str | None:
        """Return the short name of the benchmark of a metric; ``None`` if there is only one benchmark."""
        if not self._names_benchmarks:
            return None
        return (metric.benchmark or "").removeprefix(self._prefix) or "(no name)"

    def conclusion(self) -> str:
        """Return the verdict of the whole in one sentence."""
        found = self.found
        if not found.is_comparable:
            reason = self._reason()
            return f"Nothing can be compared: {reason}{'' if reason.endswith('?') else '.'}"
        deciding = [metric for metric in found.primary if metric.verdict is found.verdict]
        if found.verdict is Verdict.INCONCLUSIVE:
            return f"Inconclusive: {self._power(deciding)}."
        if found.verdict is Verdict.NO_CHANGE:
            return f"No change beyond the margin: {self._list(map(self.label, deciding))}."
        changes = (f"{self.label(metric)} {_change(metric)}" for metric in deciding)
        return f"{found.verdict.capitalize()}: {self._list(changes)}."

    def side_lines(self) -> list[tuple[str, str]]:
        """Return the name and the description of both sides."""
        return [
            (name, _described(runs))
            for name, runs in (("baseline", self.sides.baseline), ("current", self.sides.current))
        ]

    def notes(self) -> list[str]:
        """Return the notes of the comparison, and those of the listed metrics, equal ones once."""
        by_text: dict[str, list[str]] = {}
        for metric in self.rows:
            for note in metric.notes:
                by_text.setdefault(note, []).append(self.label(metric))
        of_metrics = [f"{self._list(labels)}: {note}" for note, labels in by_text.items()]
        conclusion = self.conclusion()  # which may have one of them
        return [*(note for note in self.found.notes if note not in conclusion), *of_metrics]

    def omitted_line(self) -> str | None:
        """Return a sentence on the metrics that are not listed."""
        if not self._omitted:
            return None
        counts = Counter(
            "on one side only" if metric.change is None else str(metric.verdict) for metric in self._omitted
        )
        listed = ", ".join(f"{number:,} {kind}" for kind, number in counts.items())
        return f"Not listed: {listed} (--all lists them)."

    def _reason(self) -> str:
        found, sides = self.found, self.sides
        before, after = (
            {one.run.tags.get(LATENCY_TAG) for one in side} for side in (sides.baseline, sides.current)
        )
        if found.notes and not before & after:  # the first note names the benchmarks of both sides
            return found.notes[0]
        if not found.primary:
            return "no metric matches --primary (by default latency.p95 and throughput)"
        first = next((metric for metric in found.primary if metric.notes), found.primary[0])
        return f"{self.label(first)}: {', '.join(first.notes) or 'no value on both sides'}"

    def _power(self, deciding: Sequence[MetricComparison]) -> str:
        known = [metric for metric in deciding if metric.detectable is not None]
        if not known:
            first = next((one for one in deciding if one.notes), None)
            return f"{self.label(first)}: {first.notes[0]}" if first else "no detectable change is known"
        worst = sorted(known, key=lambda metric: -(metric.detectable or 0))
        sizes = self._list(f"{format_percent(one.detectable or 0)} for {self.label(one)}" for one in worst)
        text = f"the smallest detectable change is {sizes}"
        needed = [metric for metric in worst if metric.needed is not None]
        if not needed:
            return text
        most = max(needed, key=lambda metric: metric.needed or 0)
        return f"{text}; {_needed(most)} detect {format_percent(2 * most.margin)}"

    def _list(self, texts: Iterable[str]) -> str:
        listed = list(texts)
        more = len(listed) - _MAX_NAMED
        return ", ".join(listed[:_MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _described(runs: Sequence[ComparedRun]) -> str:
    if not runs:
        return "none"
    contexts = [one.run for one in runs]
    jobs = number_of_jobs(runs)
    parts = [f"{format_count(len(runs), 'run')} of {format_count(jobs, 'job')}"]
    for field in ("branch", "commit"):
        values = list(dict.fromkeys(getattr(run, field) for run in contexts if getattr(run, field)))
        if len(values) == 1:
            parts.append(values[0][:12] if field == "commit" else values[0])
        elif values:
            parts.append(f"{len(values):,} {field}{'es' if field == 'branch' else 's'}")
    days = sorted({f"{run.timestamp:%Y-%m-%d}" for run in contexts})
    parts.append(days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")
    return ", ".join(parts)


def _change(metric: MetricComparison) -> str:
    if metric.change is None:
        return ""
    text = format_change(metric.change)
    return f"{text} (odds)" if parse_flat_key(metric.key).statistic == SUCCESS_RATE else text


def _interval(metric: MetricComparison) -> str:
    if metric.low is None or metric.high is None:
        return ""
    if metric.low == metric.high:
        return "exact"
    return f"{format_change(metric.low)} to {format_change(metric.high)}"


def _needed(metric: MetricComparison) -> str:
    if metric.needed is None:
        return ""
    return f"{format_count(metric.needed, metric.unit)}{' on each side' if metric.unit == 'job' else ''}"


def _value(metric: MetricComparison, value: float | None) -> str:
    return "" if value is None else format_measurement(metric.key, value)


# -- a table -----------------------------------------------------------------------------------------------


def print_table(report: Report, console: Console) -> None:
    """Print the sides, the metrics, the notes and, in the last line, the conclusion."""
    for name, description in report.side_lines():
        console.print(Text(escape_control(f"{name:8}  {description}")), soft_wrap=True)
    if report.rows:
        table = _table(report, is_wide=True)
        unlimited = console.options.update(max_width=_UNLIMITED_COLUMNS)
        fits = Measurement.get(console, unlimited, table).maximum <= console.width
        console.print(table if fits else _table(report, is_wide=False))
    for line in (report.omitted_line(), *(f"Note: {note}." for note in report.notes())):
        if line is not None:
            console.print(Text(escape_control(line)), soft_wrap=not console.is_terminal)
    found = report.found
    style = _STYLES[found.verdict] if found.is_comparable else "yellow"
    conclusion = Text(escape_control(report.conclusion()), style=style or "bold")
    console.print(conclusion, soft_wrap=not console.is_terminal)


def _table(report: Report, *, is_wide: bool) -> Table:
    table = Table(box=box.SIMPLE)
    has_power = any(metric.verdict is Verdict.INCONCLUSIVE for metric in report.rows)
    columns = [
        ("metric", "verdict"),
        ("baseline", "current"),
        ("change", "interval"),
        ("margin", "detectable"),
        *([("needed",)] if has_power else []),
    ]
    for headings in [(name,) for stacked in columns for name in stacked] if is_wide else columns:
        is_text = headings[0] in ("metric", "verdict")
        # Only the names are folded, so that numbers stay whole.
        table.add_column(
            "\n".join(headings), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
    for number, metric in enumerate(report.rows):
        if number and report.rows[number - 1].is_primary and not metric.is_primary:
            table.add_section()
        benchmark = report.benchmark(metric)
        names = [report.label(metric)] if is_wide or benchmark is None else [benchmark, metric.key]
        cells: list[list[Text]] = [
            [
                *(Text(escape_control(name)) for name in names),
                Text(metric.verdict, style=_STYLES[metric.verdict]),
            ],
            [Text(_value(metric, metric.baseline)), Text(_value(metric, metric.current))],
            [Text(_change(metric), style=_STYLES[metric.verdict]), Text(_interval(metric))],
            [
                Text(format_percent(metric.margin)),
                Text("" if metric.detectable is None else format_percent(metric.detectable)),
            ],
        ]
        if has_power:
            needed = _needed_cells(metric)
            cells.append([Text(" ".join(needed))] if is_wide else list(map(Text, needed)))
        if is_wide:
            table.add_row(*(cell for group in cells for cell in group))
        else:
            table.add_row(*(Text("\n").join(group) for group in cells))
    return table


def _needed_cells(metric: MetricComparison) -> tuple[str, str]:
    if metric.needed is None or metric.verdict is not Verdict.INCONCLUSIVE:
        return ("", "")
    return format_count(metric.needed, metric.unit), f"for {format_percent(2 * metric.margin)}"


def _to_text(report: Report) -> str:
    buffer = io.StringIO()
    print_table(report, Console(file=buffer, width=_FILE_COLUMNS, force_terminal=False, no_color=True))
    return buffer.getvalue().rstrip("\n")


# -- JSON --------------------------------------------------------------------------------------------------


def _to_json(report: Report) -> str:
    found = report.found
    document = {
        "verdict": found.verdict.value,
        "is_comparable": found.is_comparable,
        "conclusion": report.conclusion(),
        "error": found.error,
        "notes": list(found.notes),
        "baseline": _side_fields(report.sides.baseline),
        "current": _side_fields(report.sides.current),
        "metrics": [_metric_fields(metric) for metric in found.metrics],
    }
    return to_indented_json(document)


def _side_fields(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    listed = [
        {
            "path": str(run.path),
            "line": run.line,
            "run_id": run.run_id,
            "timestamp": run.timestamp.isoformat(),
            "commit": run.commit,
            "branch": run.branch,
        }
        for run in (one.run for one in runs)
    ]
    return {"jobs": number_of_jobs(runs), "runs": listed}


def _metric_fields(metric: MetricComparison) -> dict[str, Any]:
    return {
        "key": metric.key,
        "benchmark": metric.benchmark,
        "is_primary": metric.is_primary,
        "verdict": metric.verdict.value,
        "better": metric.better.value,
        "margin": metric.margin,
        "baseline": metric.baseline,
        "current": metric.current,
        "change": metric.change,
        "low": metric.low,
        "high": metric.high,
        "p_value": metric.p_value,
        "detectable": metric.detectable,
        "needed": metric.needed,
        "unit": metric.unit,
        "baseline_units": metric.baseline_units,
        "current_units": metric.current_units,
        "notes": list(metric.notes),
    }


# -- Markdown ----------------------------------------------------------------------------------------------


def _to_markdown(report: Report) -> str:
    found = report.found
    title = found.verdict.value if found.is_comparable else "nothing compared"
    lines = [f"### Performance: {title}", "", markdown_text(report.conclusion()), ""]
    if report.rows:
        header = ["metric", "verdict", "baseline", "current", "change", "interval", "margin", "detectable"]
        lines += [f"| {' | '.join(header)} |", f"|{' --- |' * 2}{' ---: |' * (len(header) - 2)}"]
        lines += [f"| {' | '.join(_markdown_cells(report, metric))} |" for metric in report.rows]
        lines.append("")
    if (omitted := report.omitted_line()) is not None:
        lines += [markdown_text(omitted), ""]
    lines += [f"- {name}: {markdown_text(description)}" for name, description in report.side_lines()]
    lines += [f"- {markdown_text(note)}" for note in report.notes()]
    return "\n".join(lines)


def _markdown_cells(report: Report, metric: MetricComparison) -> list[str]:
    verdict = metric.verdict.value
    texts = [
        _value(metric, metric.baseline),
        _value(metric, metric.current),
        _change(metric),
        _interval(metric),
        format_percent(metric.margin),
        "" if metric.detectable is None else format_percent(metric.detectable),
    ]
    return [
        markdown_code(report.label(metric), in_table=True),
        f"**{verdict}**" if metric.verdict is Verdict.REGRESSION else verdict,
        *texts,
    ]


def markdown_text(text: str) -> str:
    r"""Return Markdown that shows a text as it is, without links, mentions of users or HTML.

    Example:
        >>> print(markdown_text("a*b* <i> latency.p95"))
        a\*b\* \<i> latency.p95
    """
    escaped = re.sub(r"([\\`*_{}\[\]<&|~#$])", r"\\\1", escape_control(text))
    escaped = re.sub(r"(?i)\bwww(?=\.)", r"\g<0><!-- -->", escaped)
    return re.sub("@", "@<!-- -->", escaped).replace("://", ":<!-- -->//")


def markdown_code(text: str, *, in_table: bool = False) -> str:
    r"""Return Markdown that shows a text as code.

    Args:
        text: The text.
        in_table: Whether it is in the cell of a table, where a bar would end the cell.

    Example:
        >>> print(markdown_code("a`b"), markdown_code("a|b", in_table=True))
        ``a`b`` `a\|b`
    """
    plain = escape_control(text) or " "
    fence = "`" * (max(map(len, re.findall("`+", plain)), default=0) + 1)
    if plain[0] in "` " or plain[-1] in "` ":
        plain = f" {plain} "
    if in_table:  # a backslash before a bar has to be doubled
        plain = re.sub(r"(\\*)\|", lambda bar: f"{bar[1] * 2}\\|", plain)
    return f"{fence}{plain}{fence}"


# -- annotations of a GitHub workflow ----------------------------------------------------------------------


def _to_github(report: Report) -> str:
    found = report.found
    lines = []
    for metric in report.rows:
        if metric.verdict is Verdict.REGRESSION:
            level = "error" if metric.is_primary else "warning"
            interval = f", interval {_interval(metric)}" if _interval(metric) else ""
            text = (
                f"{report.label(metric)} {_change(metric)}: {_value(metric, metric.baseline)} to"
                f" {_value(metric, metric.current)}{interval}, margin {format_percent(metric.margin)}"
            )
            lines.append(workflow_command(level, "Performance regression", text))
    # GitHub shows ten annotations of a level and a step, the first ones.
    is_uncertain = found.verdict is Verdict.INCONCLUSIVE or not found.is_comparable
    level = "warning" if is_uncertain else "notice"
    lines.append(workflow_command(level, "Performance", report.conclusion()))
    lines += [workflow_command("notice", "Performance", note) for note in report.notes()]
    return "\n".join(lines)


def workflow_command(level: str, title: str, text: str) -> str:
    """Return a command that makes GitHub show an annotation.

    Args:
        level: ``error``, ``warning`` or ``notice``.
        title: The title.
        text: The message.

    Example:
        >>> workflow_command("error", "a: b, c", "50% off")
        '::error title=a%3A b%2C c::50%25 off'
    """
    escaped = _escape_data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={escaped}::{_escape_data(text)}"


def _escape_data(text: str) -> str:
    return escape_control(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


# -- JUnit -------------------------------------------------------------------------------------------------

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _to_junit(report: Report) -> str:
    found = report.found
    suite = ElementTree.Element("testsuite", name="performance")
    results = [_add_case(suite, metric) for metric in found.metrics]
    if not results:
        case = ElementTree.SubElement(suite, "testcase", classname="performance", name="comparison")
        ElementTree.SubElement(case, "skipped", message=_xml(report.conclusion()))
        results = ["skipped"]
    counts = Counter(results)
    suite.set("tests", str(len(results)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", "0")
    suite.set("skipped", str(counts["skipped"]))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    lines = [*map(": ".join, report.side_lines()), *report.notes(), report.conclusion()]
    ElementTree.SubElement(suite, "system-out").text = "\n".join(_xml(escape_control(line)) for line in lines)
    ElementTree.indent(root)
    # ASCII, because the encoding of standard output may be another one than that of a file.
    text: bytes = ElementTree.tostring(root, "us-ascii")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + text.decode()


def _add_case(suite: ElementTree.Element, metric: MetricComparison) -> str:
    """Add the test case of a metric. Only a regression that decides fails, as it fails the command."""
    classname = _xml(escape_control(metric.benchmark or "performance"))
    case = ElementTree.SubElement(
        suite, "testcase", classname=classname, name=_xml(escape_control(metric.key))
    )
    facts = [
        f"{metric.verdict}{f': {_change(metric)}' if metric.change is not None else ''}",
        f"baseline {_value(metric, metric.baseline)}, current {_value(metric, metric.current)}",
        f"interval {_interval(metric) or 'unknown'}, margin {format_percent(metric.margin)}",
        *([] if metric.detectable is None else [f"detectable change {format_percent(metric.detectable)}"]),
        *metric.notes,
    ]
    texts = [_xml(escape_control(fact)) for fact in facts]
    if metric.verdict is Verdict.REGRESSION and metric.is_primary:
        ElementTree.SubElement(case, "failure", message=texts[0], type="regression").text = "\n".join(texts)
        return "failure"
    if metric.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "skipped", message="; ".join(texts))
        return "skipped"
    ElementTree.SubElement(case, "system-out").text = "\n".join(texts)
    return "passed"


def _xml(text: str) -> str:
    """Return a text with each character that XML 1.0 forbids replaced."""
    return _NOT_IN_XML.sub("\ufffd", text)


_FORMATS: dict[str, Callable[[Report], str]] = {
    "table": _to_text,
    "json": _to_json,
    "markdown": _to_markdown,
    "github": _to_github,
    "junit": _to_junit,
}
