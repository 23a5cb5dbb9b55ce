"""The tables that the commands print."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.measure import Measurement
from metrics_framework.cli.numbers import duration, plain, size, sparkline
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.telemetry.summary import GroupSummary, TelemetrySummary

# Control characters, and bytes that are no text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def print_measurement(measurement: Measurement, snapshot: PerformanceSnapshot) -> None:
    """Print what was measured of a command."""
    summary = measurement.system.aggregator.get_metric_summary(measurement.name)
    metrics = snapshot.metrics
    table = _table(f"{measurement.name}, {measurement.runs} {'run' if measurement.runs == 1 else 'runs'}")
    for label, key in (
        ("mean", "avg"),
        ("p50", "p50"),
        ("p95", "p95"),
        ("p99", "p99"),
        ("min", "min"),
        ("max", "max"),
    ):
        _row(table, label, duration(summary[key]))
    if metrics.throughput is not None:
        _row(table, "throughput", f"{plain(metrics.throughput)} runs/s")
    if metrics.memory_mb is not None:
        _row(table, "peak memory", f"{plain(metrics.memory_mb)} MB")
    if metrics.cpu_percent is not None:
        cores = measurement.system.resource_monitor.get_cpu_usage()["count"]
        _row(table, f"CPU, of {plain(cores)} cores", f"{plain(metrics.cpu_percent)} %")
    failures = measurement.system.tracker.get_failure_breakdown(measurement.name)
    _row(table, "failures", plain(measurement.failures), "bold red" if failures else "")
    for error_type, number in sorted(failures.items()):
        _row(table, f"  {error_type}", plain(number), "red")
    if measurement.runs > 1:
        _row(table, "run by run", sparkline(measurement.milliseconds))
    Console().print(table)


def print_snapshot(snapshot: PerformanceSnapshot) -> None:
    """Print a snapshot's context and its measurements."""
    metadata = snapshot.metadata
    table = _table("performance snapshot")
    _row(table, "run", metadata.run_id)
    _row(table, "time", metadata.timestamp.isoformat())
    _row(table, "commit", metadata.commit or "none")
    _row(table, "branch", metadata.branch or "none")
    _row(table, "environment", metadata.environment.value)
    for key, value in sorted(metadata.tags.items()):
        _row(table, f"tag {key}", value)
    table.add_section()
    for key, number in snapshot.metrics.flat().items():
        if key.startswith("latency."):
            _row(table, key, duration(number))
        else:
            _row(table, key, plain(number))
    Console().print(table)


def print_telemetry(name: str, summary: TelemetrySummary, statuses: Mapping[str, str]) -> None:
    """Print what telemetry events say: their sessions, their memory over time, and how many of which kind.

    Args:
        name: The file.
        summary: What they say.
        statuses: Session to status, as far as a manifest says so.
    """
    console = Console()
    sessions = summary.sessions()
    short = _shortened(sessions)
    records = f"{plain(summary.records)} {'event' if summary.records == 1 else 'events'}"
    # Not a title, which would be broken at the width of its table.
    console.print(Text(visible(f"{name}, {records}"), style="bold"), soft_wrap=True)
    if not sessions:
        return
    table = _columns("sessions", ["session", "status", "source"], ["events", "time"])
    for session, groups in sessions.items():
        status = statuses.get(session) or ("completed" if summary.was_stopped(session) else "incomplete")
        sources = ", ".join(sorted(set().union(*(part.source_kinds for part in groups))))
        begin, end = min(part.first_ns for part in groups), max(part.last_ns for part in groups)
        count = plain(sum(part.records for part in groups))
        _cells(table, session, status, sources, count, duration((end - begin) / 1e6))
    console.print(table)
    table = _columns(
        "memory", ["session", "rank", "stage"], ["events", "time", "lowest", "peak", "over time"]
    )
    order = list(sessions)
    for part, found in sorted(  # stages stay in the order in which they came
        summary.groups.items(), key=lambda item: (order.index(item[0].session_id), item[0].rank or 0)
    ):
        _cells(
            table,
            short[part.session_id],
            "none" if part.rank is None else str(part.rank),
            part.stage or "none",
            plain(found.records),
            duration((found.last_ns - found.first_ns) / 1e6),
            *_course(found),
        )
    console.print(table)
    table = _columns("events", ["session", "type", "severity"], ["events"])
    for (session, event_type, severity), number in sorted(
        summary.events.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1])
    ):
        _cells(table, short[session], event_type, severity or "none", plain(number))
    console.print(table)


def _shortened(sessions: Mapping[str, object]) -> dict[str, str]:
    """Return each session's first characters, as many as it takes to tell them apart."""
    length = 8
    while len({session[:length] for session in sessions}) < len(sessions):
        length += 4
    return {session: session[:length] for session in sessions}


def _course(part: GroupSummary) -> tuple[str, str, str]:
    values = part.memory.values()
    if part.peak is None:
        return "none", "none", ""
    lowest = min(values)
    return size(lowest), size(part.peak), sparkline([value - lowest for value in values], width=14)


def _columns(title: str, left: list[str], right: list[str]) -> Table:
    """Return a table with a heading for each column, as narrow as can be: the first one is never broken."""
    table = Table(
        title=Text(visible(title), style="bold not italic"),
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in left:
        table.add_column(column, overflow="fold", no_wrap=column == "session")
    for column in right:
        table.add_column(column, justify="left" if column == "over time" else "right", no_wrap=True)
    return table


def _cells(table: Table, *cells: str) -> None:
    table.add_row(*(Text(visible(cell)) for cell in cells))


def print_batch(stats: Mapping[str, Any]) -> None:
    """Print the summary of a batch, given as plain data."""
    timing, throughput, errors = stats["timing"], stats["throughput"], stats["errors"]
    table = _table(f"batch {stats['batch_id']}")
    _row(table, "files", plain(stats["total_files"]))
    _row(table, "succeeded", f"{plain(stats['processed_count'])}, {stats['success_rate_percent']:.2f} %")
    if stats["skip_count"]:
        _row(table, "skipped", plain(stats["skip_count"]))
    _row(table, "failed", plain(stats["error_count"]), "bold red" if stats["error_count"] else "")
    for error_type, number in sorted(errors["by_type"].items()):
        _row(table, f"  {error_type}", plain(number), "red")
    _row(table, "time", duration(timing["total_duration_seconds"] * 1e3))
    labels = {"mean": "average", "median": "median", "stddev": "stddev", "min": "min", "max": "max"}
    for label, key in labels.items() if stats["processed_count"] else ():
        _row(table, f"  a file, {label}", duration(timing[f"{key}_per_file_seconds"] * 1e3))
    _row(table, "throughput", f"{plain(throughput['files_per_second'])} files/s")
    if throughput["samples_per_second"]:
        _row(table, "", f"{plain(throughput['samples_per_second'])} samples/s")
    _row(table, "started", stats["start_time"] or "not yet")
    _row(table, "finished", stats["end_time"] or "not yet")
    Console().print(table)


def _table(title: str) -> Table:
    # Text, not str: a name like "http[get]" is no markup.
    title_text = Text(visible(title), style="bold not italic")
    table = Table(title=title_text, show_header=False, title_justify="left", box=box.SIMPLE)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    return table


def _row(table: Table, label: str, value: str, style: str = "") -> None:
    table.add_row(Text(visible(label), style=style), Text(visible(value), style=style or "cyan"))


def visible(text: str) -> str:
    """Return a text in which nothing steers the terminal: names and tags come from files, too."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
