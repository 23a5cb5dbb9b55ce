"""A dashboard in Grafana's model, by its official SDK."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable
from grafana_foundation_sdk.builders.dashboard import Row as RowBuilder
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption

from metrics_adapters.grafana.panels import Panel, Row

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
