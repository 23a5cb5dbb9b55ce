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

from metrics_adapters.grafana.metrics import ExposedMetric
from metrics_framework.values import MetricType, MetricUnit

RATE_INTERVAL = "$__rate_interval"
"""Grafana replaces this with the range of a rate, which spans four scrapes."""

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

_UNITS = {"seconds": "s", "bytes": "decbytes", "percent": "percent"}
_RATE_UNITS = {"seconds": "short", "bytes": "Bps", "percent": "short", "": "cps"}


class Query(NamedTuple):
    """A PromQL expression, and the legend of its lines."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A graph.

    Attributes:
        key: Identifies the panel in every export.
        title: The title of the panel.
        description: The description, or an empty string.
        unit: The unit, by Grafana's name.
        queries: The queries of its lines.
    """

    key: str
    title: str
    description: str
    unit: str
    queries: list[Query]


class PanelRow(NamedTuple):
    """Panels under one title."""

    title: str
    panels: list[Panel]


def panel_rows(found: Iterable[ExposedMetric]) -> list[PanelRow]:
    """Return a row for each operation, followed by one for each type of metric."""
    operations: dict[str, list[Panel]] = {}
    metrics: dict[str, list[Panel]] = {"Counters": [], "Gauges": [], "Histograms and timers": []}
    for metric in found:
        if metric.named.is_operation:
            operations.setdefault(metric.named.name, []).extend(_of_operation(metric))
        elif metric.heading.type == "counter":
            metrics["Counters"].append(_counter(metric))
        elif metric.heading.type == "gauge":
            metrics["Gauges"].append(_gauge(metric))
        else:
            metrics["Histograms and timers"].append(_histogram(metric))
    made = [PanelRow(f"Operation {name}", sorted(panels, key=_place)) for name, panels in operations.items()]
    return [*made, *(PanelRow(title, panels) for title, panels in metrics.items() if panels)]


def _place(panel: Panel) -> int:
    return ("rate", "errors", "latency").index(panel.key.partition(" ")[0])


def _of_operation(metric: ExposedMetric) -> Iterator[Panel]:
    name = metric.named.name
    if metric.named.metric_type is MetricType.TIMER:
        yield _quantiles(
            metric, f"latency {name}", f"{name}: latency", "Durations of successes and failures."
        )
        return
    by_end = f"sum by (outcome, error_type) ({_rate('_total', metric)})"
    yield Panel(
        f"rate {name}",
        f"{name}: rate",
        "Executions per second by outcome and error type.",
        "ops",
        [Query(by_end, "{{outcome}} {{error_type}}")],
    )
    # Over OTLP there is no series of failures before the first; `or` makes the ratio 0 instead of empty.
    failed = f"(sum({_rate('_total', metric, outcome='failure')}) or vector(0))"
    yield Panel(
        f"errors {name}",
        f"{name}: error ratio",
        "The share of executions that failed.",
        "percentunit",
        [Query(f"{failed} / sum({_rate('_total', metric)})", "error ratio")],
    )


def _counter(metric: ExposedMetric) -> Panel:
    head = metric.heading
    rate = f"sum{_by(metric.labels)} ({_rate('_total', metric)})"
    unit = _RATE_UNITS[head.unit]
    return _panel(metric, "per second", unit, [Query(rate, _legend(metric))])


def _gauge(metric: ExposedMetric) -> Panel:
    head = metric.heading
    expression = _selector("", metric)
    legend = _legend(metric)
    if metric.merge == "latest":
        legend = f"{legend} {{{{instance}}}}"  # `latest` cannot combine the gauges of several processes
    else:
        expression = f"{metric.merge}{_by(metric.labels)} ({expression})"
    unit = "ops" if head.recorded_unit is MetricUnit.OPERATIONS_PER_SECOND else _UNITS.get(head.unit, "short")
    return _panel(metric, "", unit, [Query(expression, legend)])


def _histogram(metric: ExposedMetric) -> Panel:
    named = metric.named
    return _quantiles(metric, _key(metric), named.name, metric.heading.help)


def _quantiles(metric: ExposedMetric, key: str, title: str, description: str) -> Panel:
    head = metric.heading
    rate = _rate("_bucket", metric)
    queries = [
        Query(f"histogram_quantile({share}, sum by (le) ({rate}))", name) for name, share in QUANTILES.items()
    ]
    return Panel(key, title, description, _UNITS.get(head.unit, "short"), queries)


def _panel(metric: ExposedMetric, what: str, unit: str, queries: list[Query]) -> Panel:
    name = metric.named.name
    title = f"{name} {what}".rstrip()
    return Panel(_key(metric), title, metric.heading.help, unit, queries)


def _key(metric: ExposedMetric) -> str:
    return f"{metric.named.metric_type.value} {metric.named.name}"


def _rate(suffix: str, metric: ExposedMetric, **labels: str) -> str:
    return f"rate({_selector(suffix, metric, **labels)}[{RATE_INTERVAL}])"


def _selector(suffix: str, metric: ExposedMetric, **labels: str) -> str:
    matchers = [f"{name}={quoted(text)}" for name, text in {**metric.constant, **labels}.items()]
    name = f"{metric.heading.name}{suffix}"
    if metric.utf_8_name != metric.heading.name:  # the scraper decides which one the server has
        matchers.insert(0, f'__name__=~"{name}|{metric.utf_8_name}{suffix}"')
        name = ""
    return f"{name}{{{','.join(matchers)}}}" if matchers else name


def _by(labels: Iterable[str]) -> str:
    listed = ", ".join(labels)
    return f" by ({listed})" if listed else ""


def _legend(metric: ExposedMetric) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in metric.labels) or metric.heading.name


def quoted(text: str) -> str:
    r"""Return a PromQL string literal in which Grafana replaces no variables.

    Example:
        >>> quoted('a "$b"')
        '"a \\"\\x24b\\""'
    """
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").replace("\r", r"\r")
    return '"' + re.sub(r"[$\[]", lambda found: rf"\x{ord(found[0]):02x}", escaped) + '"'


_DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_WIDTH = 8


def dashboard_json(title: str, uid: str, rows: Iterable[PanelRow], datasource: str | None) -> str:
    """Return a dashboard as JSON: the same text for the same rows.

    Args:
        title: The title of the dashboard.
        uid: Its unique id in Grafana.
        rows: Its panels.
        datasource: The uid of the data source that is selected first, or ``None`` for Grafana's default.
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
    model.panels = model.panels or []  # Grafana expects a list even if it is empty
    return JSONEncoder(indent=2, sort_keys=True, allow_nan=False).encode(model) + "\n"


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
    """Return a panel id that does not depend on other panels, so that links to the panel stay valid."""
    number = crc32(key.encode(errors="backslashreplace")) >> 1 or 1
    while number in taken:
        number += 1
    taken.add(number)
    return number
