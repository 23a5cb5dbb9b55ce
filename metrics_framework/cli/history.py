"""``metrics-framework history``: a metric run by run, or the list of runs and metrics."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self, cast

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metrics_framework.cli.chart import chart
from metrics_framework.cli.output import add_cells, escape_control, sparkline, table_title, wide_console
from metrics_framework.plugins import load_adapter
from metrics_framework.runtime.strict_json import to_indented_json, to_json_text
from metrics_framework.snapshots import LeftOutFile, Run, RunValue
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.formatting import format_count, format_measurement

MAX_TABLE_RUNS = 20
"""Most runs in a table. JSON and CSV list all."""

_NO_LOG = logging.NullHandler()
_MAX_CHART_COLUMNS = 100
_SUMMARY = ("last", "min", "p50", "avg", "p95", "max", "stddev")


class OpenHistory(Protocol):
    """The part of the adapter ``snapshot_writer.aggregator`` that the command line uses."""

    def where(
        self,
        *,
        branch: str | None = None,
        commit: str | None = None,
        environment: str | None = None,
        tags: Mapping[str, str] | None = None,
        last: int | None = None,
    ) -> Self:
        """Return the history of the matching runs."""
        ...

    def values(self, metric: str) -> list[RunValue]:
        """Return the value of a metric in each run."""
        ...

    def runs(self) -> list[Run]:
        """Return all runs."""
        ...

    def measurements(self) -> list[tuple[Run, dict[str, float]]]:
        """Return all runs with their measurements."""
        ...

    def get_metric_summary(self, metric_name: str) -> dict[str, float]:
        """Return statistics of a metric over the runs."""
        ...

    def left_out(self) -> list[LeftOutFile]:
        """Return the files that are not snapshots."""
        ...


def open_history(source: Path) -> OpenHistory:
    """Return the history of a folder or a file. Invalid files are not logged; see `History.left_out`."""
    logging.getLogger("metrics_framework").addHandler(_NO_LOG)
    return cast(OpenHistory, load_adapter("snapshot_writer.aggregator")(source))


def mixed_timers(runs: Iterable[Run]) -> str | None:
    """Return a warning if the latency of the runs comes from different timers."""
    timers = Counter(run.tags[LATENCY_TAG] for run in runs if LATENCY_TAG in run.tags)
    if len(timers) < 2:
        return None
    listed = ", ".join(
        f"{timer!r} in {format_count(number, 'run')}" for timer, number in timers.most_common()
    )
    return f"latency and throughput come from different timers: {listed}"


# -- a metric ----------------------------------------------------------------------------------------------


def show_metric(history: OpenHistory, metric: str, format: str) -> list[Run]:
    """Print a metric run by run, and return the runs that have it.

    Raises:
        UnknownMetricError: If no run has it.
    """
    values = history.values(metric)
    if format == "json":
        document = {
            "metric": metric,
            "summary": history.get_metric_summary(metric),
            "values": [{**_run_fields(one.run), "key": one.key, "value": one.value} for one in values],
        }
        click.echo(to_indented_json(document))
    elif format == "csv":
        rows = [{**_run_fields(one.run), "key": one.key, "value": one.value} for one in values]
        click.echo(_to_csv(rows, list(rows[0])))
    else:
        series: defaultdict[str, list[RunValue]] = defaultdict(list)
        for one in values:
            series[one.key].append(one)
        console = Console()
        for key, of_series in series.items():
            if console.is_terminal:
                _print_chart(console, key, of_series, history.get_metric_summary(key))
            else:
                _print_lines(key, of_series)
    return [one.run for one in values]


def _print_chart(
    console: Console, key: str, values: Sequence[RunValue], summary: Mapping[str, float]
) -> None:
    console.print(Text(escape_control(f"{key}, {format_count(len(values), 'run')}"), style="bold"))
    lines = chart(
        [one.value for one in values],
        lambda value: format_measurement(key, value),
        (_minute(values[0].run.date), _minute(values[-1].run.date)),
        width=min(console.width, _MAX_CHART_COLUMNS),
        ascii_only=not console.encoding.lower().startswith("utf"),
    )
    for line in lines:
        console.print(Text(line, style="cyan", no_wrap=True, overflow="crop"))
    statistics = "   ".join(
        f"{name} {format_measurement(key, summary[name])}" for name in _SUMMARY if name in summary
    )
    console.print(Text(statistics))


def _print_lines(key: str, values: Sequence[RunValue]) -> None:
    click.echo(escape_control(f"{key}, {format_count(len(values), 'run')}"))
    texts = [format_measurement(key, one.value) for one in values]
    width = max(map(len, texts))
    for one, text in zip(values, texts, strict=True):
        commit = (one.run.commit or "none")[:12]
        line = f"{one.run.date.isoformat(timespec='seconds')}  {text:>{width}}  {commit:12}"
        click.echo(escape_control(f"{line}  {one.run.branch or 'none'}"))


# -- the runs ----------------------------------------------------------------------------------------------


def show_runs(history: OpenHistory, format: str) -> list[Run]:
    """Print the runs and their metrics, and return the runs."""
    runs = history.measurements()
    if format == "json":
        listed = [{**_run_fields(run), "metrics": values} for run, values in runs]
        click.echo(to_indented_json({"runs": listed}))
    elif format == "csv":
        keys = list(dict.fromkeys(key for _, values in runs for key in values))
        rows = [{**_run_fields(run), **values} for run, values in runs]
        context = [name for name in (rows[0] if rows else {}) if name not in keys]
        click.echo(_to_csv(rows, [*context, *sorted(keys)]))
    elif runs:
        _print_tables(runs)
    return [run for run, _ in runs]


def _print_tables(runs: Sequence[tuple[Run, dict[str, float]]]) -> None:
    console = wide_console()
    newest = runs[-MAX_TABLE_RUNS:]
    title = (
        format_count(len(runs), "run")
        if newest == runs
        else f"{format_count(len(runs), 'run')}, the newest {MAX_TABLE_RUNS}"
    )
    table = _table(title, "time", "branch", "commit", "environment", "latency.p95", "throughput")
    for run, values in newest:
        keys = ("latency.p95", "throughput")
        cells = [format_measurement(key, values[key]) if key in values else "" for key in keys]
        context = [_minute(run.date), run.branch or "none", (run.commit or "none")[:12]]
        add_cells(table, *context, run.environment.value, *cells)
    console.print(table)
    series: defaultdict[str, list[float]] = defaultdict(list)
    for _, values in runs:
        for key, value in values.items():
            series[key].append(value)
    table = _table(format_count(len(series), "metric"), "metric", "runs", "last", "min", "max", "run by run")
    for key, of_metric in sorted(series.items(), key=lambda one: (one[0].startswith("custom."), one[0])):
        cells = [format_measurement(key, value) for value in (of_metric[-1], min(of_metric), max(of_metric))]
        add_cells(table, key, str(len(of_metric)), *cells, sparkline(of_metric, 24))
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=table_title(title), title_justify="left", box=box.SIMPLE)
    for column in columns:
        is_number = column in ("runs", "last", "min", "max", "latency.p95", "throughput")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    return table


# -- formats -----------------------------------------------------------------------------------------------


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "timestamp": run.timestamp.isoformat(),
        "date": run.date.isoformat(),
        "run_id": run.run_id,
        "commit": run.commit,
        "branch": run.branch,
        "environment": run.environment.value,
        "tags": run.tags,
        "path": str(run.path),
        "line": run.line,
    }


def _to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "tags": to_json_text(row["tags"])})
    return buffer.getvalue().removesuffix("\r\n")


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
