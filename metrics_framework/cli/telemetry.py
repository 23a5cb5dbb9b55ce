"""``metrics-framework telemetry``: project, summarize and follow telemetry files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.output import EXIT_INTERRUPTED, add_cells, escape_control, sparkline, table_title
from metrics_framework.errors import MetricsError
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import MetricCollector
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.snapshots.formatting import format_bytes, format_count, format_duration, format_number
from metrics_framework.telemetry import (
    Flaw,
    ProjectedTelemetryRecord,
    TelemetryFollower,
    TelemetryRecorder,
    projected_record_to_dict,
    read_projected_telemetry,
    read_telemetry_manifest,
)
from metrics_framework.telemetry.summary import GroupSummary, TelemetrySummary

FILE = click.argument("file", type=click.Path(allow_dash=True))


@click.group()
def telemetry() -> None:
    """Convert, summarize and follow telemetry files."""


@telemetry.command()
@FILE
def project(file: str) -> None:
    """Print the events of FILE as JSON lines.

    Each event is printed in the common envelope. FILE is a file of JSON lines, plain or compressed with gzip,
    a folder of segments, or - for standard input. Lines that are not events are reported on standard error
    with their line numbers.

    \b
    Exit codes:
      0  every line is an event
      1  a line is not an event, or FILE cannot be read
    """  # noqa: D301 - click looks for the character, which keeps it from filling the paragraph
    flaws = _Flaws()
    for record in _read(file, flaws):
        _print(record)
    sys.exit(1 if flaws.count else 0)


@telemetry.command()
@FILE
def summary(file: str) -> None:
    """Summarize the events of FILE by session, rank and stage.

    FILE and the exit codes are the same as for `project`. Memory is that reported by the allocator, or else
    the memory used on the device. The bars range from the lowest to the highest value of their row.
    """
    flaws = _Flaws()
    found = TelemetrySummary()
    for record in _read(file, flaws):
        found.add(record)
    manifest = None if file == "-" else read_telemetry_manifest(file)
    statuses = {session.session_id: session.status for session in manifest.sessions} if manifest else {}
    print_telemetry("standard input" if file == "-" else file, found, statuses)
    sys.exit(1 if flaws.count else 0)


@telemetry.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--serve",
    "port",
    type=click.IntRange(0, 65_535),
    help="Serve gauges to Prometheus on this port of 127.0.0.1; 0 picks a free port.",
)
@click.option(
    "--interval",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.001, 3600),
    help="Seconds between reads.",
)
def follow(file: Path, port: int | None, interval: float) -> None:
    """Print or serve the events of FILE as it grows.

    Reads until interrupted. FILE is a file or a folder of segments. It need not exist yet, and may be
    truncated or rotated. Each event is printed as a JSON line in the common envelope. With --serve,
    Prometheus can scrape the measurements from the printed address instead.

    \b
    Exit codes:
      1    FILE cannot be read, or the port is in use
      130  interrupted by Ctrl-C or SIGTERM
    """  # noqa: D301 - as above
    flaws = _Flaws()
    events = 0
    try:
        if not file.exists():
            click.echo(f"waiting for {escape_control(str(file))}", err=True)
        handle = _print if port is None else TelemetryRecorder(_serve(port)).record
        with TelemetryFollower(file, flaws.add) as follower:
            while True:
                for record in follower.poll():
                    handle(record)
                    events += 1
                sys.stdout.flush()
                time.sleep(interval)
    except KeyboardInterrupt:
        click.echo(f"events: {events}, invalid lines: {flaws.count}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except MetricsError as error:
        raise click.ClickException(escape_control(str(error))) from error


def _serve(port: int) -> MetricCollector:
    """Return a collector whose metrics are served on a local port, and print the address."""
    collector: MetricCollector = load_adapter("in_memory.collector")()
    click.echo(load_adapter("prometheus.server")(port, metrics=collector).url)
    return collector


class _Flaws:
    """Prints and counts the lines that are not events."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, flaw: Flaw) -> None:
        self.count += 1
        click.echo(escape_control(str(flaw)), err=True)


def _read(file: str, flaws: _Flaws) -> Iterator[ProjectedTelemetryRecord]:
    source: str | IO[bytes] = sys.stdin.buffer if file == "-" else file
    try:
        yield from read_projected_telemetry(source, flaws.add)
    except MetricsError as error:
        raise click.ClickException(escape_control(str(error))) from error


def _print(record: ProjectedTelemetryRecord) -> None:
    sys.stdout.write(to_json_text(projected_record_to_dict(record)) + "\n")


def print_telemetry(name: str, summary: TelemetrySummary, statuses: Mapping[str, str]) -> None:
    """Print the tables of telemetry events: sessions, memory over time, and number of events by type.

    Args:
        name: The file, for the heading.
        summary: Summary of the events.
        statuses: Status by session, for the sessions in the manifest.
    """
    console = Console()
    sessions = summary.sessions()
    short = _unique_prefixes(sessions)
    # Not a table title, which would wrap at the width of the table.
    console.print(
        Text(escape_control(f"{name}, {format_count(summary.records, 'event')}"), style="bold"),
        soft_wrap=True,
    )
    if not sessions:
        return
    table = _columns("sessions", ["session", "status", "source"], ["events", "time"])
    for session, parts in sessions.items():
        status = statuses.get(session) or ("completed" if summary.was_stopped(session) else "incomplete")
        sources = ", ".join(sorted(set().union(*(part.source_kinds for part in parts))))
        count = format_number(sum(part.records for part in parts))
        add_cells(table, session, status, sources, count, _time(*parts))
    console.print(table)
    table = _columns(
        "memory", ["session", "rank", "stage"], ["events", "time", "lowest", "peak", "over time"]
    )
    order = list(sessions)
    for part, found in sorted(  # stages keep the order of their first events
        summary.groups.items(), key=lambda item: (order.index(item[0].session_id), item[0].rank or 0)
    ):
        add_cells(
            table,
            short[part.session_id],
            "none" if part.rank is None else str(part.rank),
            part.stage or "none",
            format_number(found.records),
            _time(found),
            *_memory_cells(found),
        )
    console.print(table)
    table = _columns("events", ["session", "type", "severity"], ["events"])
    for (session, event_type, severity), number in sorted(
        summary.events.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1])
    ):
        add_cells(table, short[session], event_type, severity or "none", format_number(number))
    console.print(table)


def _unique_prefixes(sessions: Mapping[str, object]) -> dict[str, str]:
    """Return the shortest unique prefix of each session, of at least 8 characters."""
    length = 8
    while len({session[:length] for session in sessions}) < len(sessions):
        length += 4
    return {session: session[:length] for session in sessions}


def _time(*parts: GroupSummary) -> str:
    """Return the time from the first event to the last one."""
    times = [time for part in parts for time in (part.first_ns, part.last_ns) if time is not None]
    return format_duration((max(times) - min(times)) / 1e6) if times else "unknown"


def _memory_cells(part: GroupSummary) -> tuple[str, str, str]:
    values = part.memory.values()
    if part.peak is None:
        return "none", "none", ""
    lowest = min(values, default=part.peak)
    return (
        format_bytes(lowest),
        format_bytes(part.peak),
        sparkline([value - lowest for value in values], width=14),
    )


def _columns(title: str, left: list[str], right: list[str]) -> Table:
    """Return a table with headings and little padding. The column ``session`` is never wrapped."""
    table = Table(
        title=table_title(title),
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
