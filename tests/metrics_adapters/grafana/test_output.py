"""The Grafana dashboard, its panels, and its targets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.grafana import GrafanaDashboard
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError, RefusedError
from metrics_framework.values import MetricType, MetricUnit
from tests.metrics_adapters.otlp.test_exporter import Foreign, value
from tests.metrics_adapters.prometheus.gateways import answering


def shop() -> MetricsSystem:
    """Return a system with metrics of every kind."""
    metrics = MetricsSystem(clock=ManualClock(), tags={"service": "shop"})
    collector = metrics.collector
    collector.describe("queue.depth", merge="sum", help="How many wait.")
    collector.describe("cache.size", unit=MetricUnit.MEGABYTES)
    collector.record_counter("http.requests", 3, {"page": "/", "status": "200"})
    collector.record_gauge("queue.depth", 4, {"queue": "mail"})
    collector.record_gauge("cache.size", 1.5)
    collector.record_histogram("payload", 10)
    collector.record_timer("wait", 20)
    with metrics.measure("order"):
        pass
    return metrics


def rendered(metrics: MetricsSystem, **arguments: Any) -> dict[str, Any]:
    """Return the dashboard of a system."""
    found: dict[str, Any] = json.loads(GrafanaDashboard("x.json", **arguments).render(metrics))
    return found


def panels(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the graphs of a dashboard by title."""
    return {panel["title"]: panel for panel in dashboard["panels"] if panel["type"] == "timeseries"}


def expressions(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a graph."""
    return [target["expr"] for target in panel["targets"]]


def test_a_dashboard_is_valid_for_the_models_of_grafana_11():
    """The models read every key, also of panels and queries, and write the same dashboard."""
    assert metadata.version("grafana-foundation-sdk").partition("!")[2].startswith("11.6.")
    register_default_plugins()  # the models of panels and queries
    dashboard = rendered(shop(), datasource="prometheus")
    assert dashboard["schemaVersion"] == 41
    assert json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder)) == dashboard


def test_every_metric_has_a_panel_with_its_unit():
    """Counters, gauges, distributions and operations have panels with exposed names and units."""
    found = panels(rendered(shop()))
    units = {title: panel["fieldConfig"]["defaults"]["unit"] for title, panel in found.items()}
    assert units == {
        "order: rate": "ops",
        "order: error ratio": "percentunit",
        "order: latency": "s",
        "http.requests per second": "cps",
        "cache.size": "decbytes",
        "queue.depth": "short",
        "payload": "short",
        "wait": "s",
    }
    rate = "[$__rate_interval]"
    assert expressions(found["http.requests per second"]) == [
        f'sum by (page, status) (rate(http_requests_total{{service="shop"}}{rate}))'
    ]
    assert expressions(found["queue.depth"]) == ['sum by (queue) (queue_depth{service="shop"})']
    assert expressions(found["cache.size"]) == ['cache_size_bytes{service="shop"}']
    assert found["queue.depth"]["description"] == "How many wait."
    assert [target["legendFormat"] for target in found["wait"]["targets"]] == ["p50", "p95", "p99"]
    bucket = f'sum by (le) (rate(wait_seconds_bucket{{service="shop"}}{rate}))'
    assert expressions(found["wait"])[1] == f"histogram_quantile(0.95, {bucket})"


def test_the_rows_are_operations_and_types():
    """Each operation and each recorded type of metric has a row."""
    titles = [panel["title"] for panel in rendered(shop())["panels"] if panel["type"] == "row"]
    assert titles == ["Operation order", "Counters", "Gauges", "Histograms and timers"]
    assert rendered(MetricsSystem())["panels"] == []


def test_panels_do_not_overlap():
    """Panels stand side by side in their rows, within the 24 columns of Grafana."""
    taken: set[tuple[int, int]] = set()
    for panel in rendered(shop())["panels"]:
        place = panel["gridPos"]
        columns = range(place.get("x", 0), place.get("x", 0) + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert max(columns) < 24
        taken |= cells


def test_the_data_source_is_a_variable():
    """The data source can be selected, and the given one is the default."""
    dashboard = rendered(shop(), datasource="main")
    (variable,) = dashboard["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert variable["current"]["value"] == "main"
    assert {panel["datasource"]["uid"] for panel in panels(dashboard).values()} == {"${datasource}"}


def test_the_same_metrics_are_the_same_dashboard():
    """Neither new numbers nor another order change a byte, and a new metric changes no other's id."""
    one, other = MetricsSystem(clock=ManualClock()), MetricsSystem(clock=ManualClock())
    for name in ("a", "b"):
        one.collector.increment(name, {"x": "1", "y": "2"})
    for name in ("b", "a", "b"):
        other.collector.record_counter(name, 7, {"y": "3", "x": "1"})
    dashboard = GrafanaDashboard("x.json")
    assert dashboard.render(one) == dashboard.render(other)
    before = {title: panel["id"] for title, panel in panels(rendered(one)).items()}
    one.collector.increment("aa")
    after = {title: panel["id"] for title, panel in panels(rendered(one)).items()}
    assert before.items() <= after.items()
    assert len(set(after.values())) == 3


def test_two_metrics_with_one_exposed_name_have_one_panel():
    """Prometheus cannot distinguish them."""
    metrics = MetricsSystem()
    metrics.collector.increment("a.b")
    metrics.collector.increment("a_b")
    assert list(panels(rendered(metrics))) == ["a.b per second"]


def test_an_aggregator_without_a_store_has_a_dashboard():
    """Its panels show the series that it returns."""
    foreign = Foreign(
        value("orders", 7, MetricType.COUNTER, MetricUnit.COUNT),
        value("size", 7, MetricType.GAUGE, MetricUnit.KILOBYTES, help="How large."),
        value("speed", 7, MetricType.GAUGE, MetricUnit.OPERATIONS_PER_SECOND),
        value("rate", 1, MetricType.RATE, MetricUnit.OPERATIONS_PER_SECOND),
        value("op", 1, MetricType.RATE, MetricUnit.OPERATIONS_PER_SECOND, operation=True),
    )
    found = panels(rendered(MetricsSystem(aggregator=foreign)))
    assert list(found) == ["op: rate", "op: error ratio", "orders per second", "size", "speed"]
    assert expressions(found["orders per second"]) == ["sum by (a) (rate(orders_total[$__rate_interval]))"]
    assert expressions(found["size"]) == ["size_bytes"]
    assert found["speed"]["fieldConfig"]["defaults"]["unit"] == "ops"


TEXTS = st.text(min_size=1, max_size=12)


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=5), TEXTS)
def test_any_text_is_valid_in_a_dashboard(recorded, constant):
    """With any names and tags, the dashboard is JSON and has unique ids."""
    metrics = MetricsSystem(clock=ManualClock(), tags={"service": constant})
    for name, tag, text in recorded:
        metrics.collector.record_gauge(name, 1, {tag: text})
    dashboard = rendered(metrics, title=constant if constant.strip() else "x")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard).values():
        name = r'(?:[a-zA-Z_][a-zA-Z0-9_]*\{|\{__name__=~"U__[a-zA-Z0-9_]*\|[^\x00-\x2f|"]*",)'
        assert re.fullmatch(rf'{name}service="(?:[^"\\$\[\n]|\\.)*"\}}', *expressions(panel))


def test_a_file_is_written_only_after_a_change(tmp_path):
    """The file is written again if metrics appear."""
    path = tmp_path / "shop.json"
    dashboard, metrics = GrafanaDashboard(path, title="Shop"), shop()
    dashboard.export(metrics)
    assert json.loads(path.read_text()) == rendered(metrics, title="Shop")
    path.touch()
    written = path.stat().st_ino
    metrics.collector.increment("http.requests", {"page": "/", "status": "500"})
    dashboard.export(metrics)
    assert path.stat().st_ino == written
    metrics.collector.increment("new")
    dashboard.export(metrics)
    assert "new per second" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_is_an_output_error(tmp_path):
    """The error has the reason."""
    with pytest.raises(OutputError, match="No such file or directory"):
        GrafanaDashboard(tmp_path / "nowhere" / "x.json").export(shop())


def test_the_dashboard_is_sent_with_a_token():
    """The request matches Grafana's API, overwrites the dashboard, and is repeated after a change."""
    metrics = shop()
    with answering() as grafana:
        dashboard = GrafanaDashboard(f"{grafana.url}/base/", title="Shop", uid="shop", token="glsa_secret")
        dashboard.export(metrics)
        dashboard.export(metrics)
        (taken,) = grafana.taken
        assert (taken.method, taken.path) == ("POST", "/base/api/dashboards/db")
        assert taken.headers["Authorization"] == "Bearer glsa_secret"
        assert taken.headers["Content-Type"] == "application/json"
        body = json.loads(taken.body)
        assert body["overwrite"] is True
        assert body["dashboard"] == rendered(metrics, title="Shop", uid="shop")
        assert "id" not in body["dashboard"] or body["dashboard"]["id"] is None
        metrics.collector.increment("new")
        dashboard.export(metrics)
        assert len(grafana.taken) == 2


@pytest.mark.parametrize(("status", "error"), [(503, OutputError), (401, RefusedError), (412, RefusedError)])
def test_a_failed_dashboard_is_sent_again(status, error):
    """Failures and rejections are different errors without the token, and the next export retries."""
    metrics = shop()
    with answering() as grafana:
        dashboard = GrafanaDashboard(grafana.url, token="glsa_secret")
        grafana.status, grafana.text = status, '{"message": "no"}'
        with pytest.raises(error, match=f"HTTP status {status}.*no") as caught:
            dashboard.export(metrics)
        assert "secret" not in f"{caught.value}{dashboard!r}"
        assert isinstance(caught.value, RefusedError) == (error is RefusedError)
        grafana.status = 200
        dashboard.export(metrics)
        assert len(grafana.taken) == 2
    with pytest.raises(OutputError, match="cannot send a dashboard to grafana"):
        GrafanaDashboard(grafana.url).export(metrics)


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("", {}, "neither a path nor"),
        (None, {}, "neither a path nor"),
        ("shop.yaml", {}, "does not end in .json"),
        ("ftp://secret/x.json", {}, "target= is not an address"),
        ("http://", {}, "it has no host"),
        ("http://host:port", {}, "malformed"),
        ("http://u:secret@host", {}, "pass token="),
        ("http://host/?x=secret", {}, "a query or a fragment"),
        ("x.json", {"token": "secret"}, "token= needs a target"),
        ("http://host", {"token": "sec ret"}, "token= is not"),
        ("x.json", {"title": " "}, "title="),
        ("x.json", {"uid": "a b"}, "uid='a b'"),
        ("x.json", {"uid": "a" * 41}, "1 to 40"),
        ("x.json", {"datasource": 3}, "datasource=3"),
        ("x.json", {"timeout": 0}, "timeout=0"),
    ],
)
def test_a_wrong_argument_is_an_error_without_secrets(target, arguments, said):
    """The error names the argument."""
    with pytest.raises(InvalidInputError, match=said) as caught:
        GrafanaDashboard(target, **arguments)
    assert "secret" not in str(caught.value)


def test_the_name_is_the_target():
    """The name is the file, or the server without the path of the API."""
    assert GrafanaDashboard(Path("shop.json")).name == "grafana:shop.json"
    assert GrafanaDashboard("https://grafana/x", token="secret").name == "grafana+https://grafana"


def test_the_uid_is_derived_from_the_title():
    """Different titles have different uids, which are valid in Grafana."""
    uids = [GrafanaDashboard("x.json", title=title).uid for title in ("Shop", "shop", "日本", "a" * 500)]
    assert len(set(uids)) == 4
    assert all(re.fullmatch("[a-z0-9-]{1,40}", uid) for uid in uids)


@pytest.mark.heavy
def test_a_missing_extra_is_named():
    """Without the foundation SDK, the import error names the extra."""
    code = "import sys; sys.modules['grafana_foundation_sdk'] = None; import metrics_adapters.grafana"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install 'metrics-framework[grafana]'" in done.stderr.splitlines()[-1]
