"""The panels of a dashboard, their queries, and the model of Grafana for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable
from grafana_foundation_sdk.builders.dashboard import Row as RowBuilder
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption

from metrics_adapters.grafana.metrics import Subject
from metrics_framework.values import MetricType, MetricUnit

INTERVAL = "$__rate_interval"
"""What Grafana puts the time of a rate in for: long enough for four scrapes."""

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

_UNITS = {"seconds": "s", "bytes": "decbytes", "percent": "percent"}
_RATE_UNITS = {"seconds": "short", "bytes": "Bps", "percent": "short", "": "cps"}


class Query(NamedTuple):
    """An expression of PromQL, and what its lines are called."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A graph.

    Attributes:
        key: What tells it from all others, from export to export.
        title: What stands above it.
        description: What it shows; may be empty.
        unit: Grafana's name of the unit.
        queries: What it asks.
    """

    key: str
    title: str
    description: str
    unit: str
    queries: list[Query]


class Row(NamedTuple):
    """Panels under one title."""

    title: str
    panels: list[Panel]


def rows(found: Iterable[Subject]) -> list[Row]:
    """Return a row for each operation, and one for each type of metric, in an order of their own."""
    operations: dict[str, list[Panel]] = {}
    metrics: dict[str, list[Panel]] = {"Counters": [], "Gauges": [], "Histograms and timers": []}
    for subject in found:
        if subject.named.is_operation:
            operations.setdefault(subject.named.name, []).extend(_of_operation(subject))
        elif subject.heading.type == "counter":
            metrics["Counters"].append(_counter(subject))
        elif subject.heading.type == "gauge":
            metrics["Gauges"].append(_gauge(subject))
        else:
            metrics["Histograms and timers"].append(_histogram(subject))
    made = [Row(f"Operation {name}", sorted(panels, key=_place)) for name, panels in operations.items()]
    return [*made, *(Row(title, panels) for title, panels in metrics.items() if panels)]


def _place(panel: Panel) -> int:
    return ("rate", "errors", "latency").index(panel.key.partition(" ")[0])


def _of_operation(subject: Subject) -> Iterator[Panel]:
    name = subject.named.name
    if subject.named.metric_type is MetricType.TIMER:
        yield _quantiles(
            subject, f"latency {name}", f"{name}: latency", "How long it takes, successful or not."
        )
        return
    series = f"{subject.heading.name}_total"
    by_end = f"sum by (outcome, error_type) ({_rate(series, subject)})"
    yield Panel(
        f"rate {name}",
        f"{name}: rate",
        "How often it ends, by outcome and type of error.",
        "ops",
        [Query(by_end, "{{outcome}} {{error_type}}")],
    )
    # Without a failure there is no series of failures, and without `or` there would be no ratio either.
    failed = f"(sum({_rate(series, subject, outcome='failure')}) or vector(0))"
    yield Panel(
        f"errors {name}",
        f"{name}: error ratio",
        "The share of its ends that are failures.",
        "percentunit",
        [Query(f"{failed} / sum({_rate(series, subject)})", "error ratio")],
    )


def _counter(subject: Subject) -> Panel:
    head = subject.heading
    rate = f"sum{_by(subject.labels)} ({_rate(f'{head.name}_total', subject)})"
    unit = _RATE_UNITS[head.unit]
    return _panel(subject, "per second", unit, [Query(rate, _legend(subject))])


def _gauge(subject: Subject) -> Panel:
    head = subject.heading
    expression = f"{head.name}{_selector(subject)}"
    legend = _legend(subject)
    if subject.merge == "latest":
        legend = f"{legend} {{{{instance}}}}"  # no law says what several processes are together
    else:
        expression = f"{subject.merge}{_by(subject.labels)} ({expression})"
    unit = "ops" if head.recorded_unit is MetricUnit.OPERATIONS_PER_SECOND else _UNITS.get(head.unit, "short")
    return _panel(subject, "", unit, [Query(expression, legend)])


def _histogram(subject: Subject) -> Panel:
    named = subject.named
    return _quantiles(subject, _key(subject), named.name, subject.heading.help)


def _quantiles(subject: Subject, key: str, title: str, description: str) -> Panel:
    head = subject.heading
    rate = _rate(f"{head.name}_bucket", subject)
    queries = [
        Query(f"histogram_quantile({share}, sum by (le) ({rate}))", name) for name, share in QUANTILES.items()
    ]
    return Panel(key, title, description, _UNITS.get(head.unit, "short"), queries)


def _panel(subject: Subject, what: str, unit: str, queries: list[Query]) -> Panel:
    name = subject.named.name
    title = f"{name} {what}".rstrip()
    return Panel(_key(subject), title, subject.heading.help, unit, queries)


def _key(subject: Subject) -> str:
    return f"{subject.named.metric_type.value} {subject.named.name}"


def _rate(series: str, subject: Subject, **labels: str) -> str:
    return f"rate({series}{_selector(subject, **labels)}[{INTERVAL}])"


def _selector(subject: Subject, **labels: str) -> str:
    matchers = ",".join(f"{name}={quoted(text)}" for name, text in {**subject.constant, **labels}.items())
    return f"{{{matchers}}}" if matchers else ""


def _by(labels: Iterable[str]) -> str:
    listed = ", ".join(labels)
    return f" by ({listed})" if listed else ""


def _legend(subject: Subject) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in subject.labels) or subject.heading.name


def quoted(text: str) -> str:
    r"""Return a text as PromQL has it, and as Grafana finds no variable in.

    Example:
        >>> quoted('a "$b"')
        '"a \\"\\x24b\\""'
    """
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").replace("\r", r"\r")
    return '"' + re.sub(r"[$\[]", lambda found: rf"\x{ord(found[0]):02x}", escaped) + '"'


_DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_WIDTH = 8


def dashboard_json(title: str, uid: str, rows: Iterable[Row], datasource: str | None) -> str:
    """Return a dashboard as JSON: the same text for the same rows.

    Args:
        title: What it is called.
        uid: What Grafana knows it by.
        rows: What it shows.
        datasource: The data source that is chosen at first; Grafana's default where it is ``None``.
    """
    variable = DatasourceVariable("datasource").label("Data source").type("prometheus")
    if datasource is not None:
        variable.current(VariableOption(text=datasource, value=datasource, selected=True))
    builder = (
        Dashboard(title)
        .uid(uid)
        .tags(["metrics-framework"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(variable)
    )
    ids: set[int] = set()
    for row in rows:
        builder.with_row(RowBuilder(row.title).id(_id(f"row {row.title}", ids)))
        for panel in row.panels:
            builder.with_panel(_graph(panel, _id(panel.key, ids)))
    model = builder.build()
    model.panels = model.panels or []  # Grafana has a list where there is nothing yet, too
    return JSONEncoder(indent=2, sort_keys=True).encode(model) + "\n"


def _graph(panel: Panel, number: int) -> Graph:
    graph = (
        Graph()
        .id(number)
        .title(panel.title)
        .datasource(_DATASOURCE)
        .unit(panel.unit)
        .height(_HEIGHT)
        .span(_WIDTH)
        .fill_opacity(10)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.description:
        graph.description(panel.description)
    for place, query in enumerate(panel.queries):
        target = Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + place))
        graph.with_target(target.range().datasource(_DATASOURCE))
    return graph


def _id(key: str, taken: set[int]) -> int:
    """Return a number that stays with a panel, so that links to it do too, whatever comes before it."""
    number = crc32(key.encode(errors="backslashreplace")) >> 1 or 1
    while number in taken:
        number += 1
    taken.add(number)
    return number
