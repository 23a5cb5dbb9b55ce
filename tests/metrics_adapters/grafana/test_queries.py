"""A real Prometheus runs the queries of a dashboard."""

from __future__ import annotations

import json

import pytest

from metrics_adapters.grafana import GrafanaDashboard
from metrics_adapters.prometheus import PrometheusCollector, serve
from metrics_framework import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.values import MetricUnit
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.heavy

HOSTILE = 'a "b" \\ $datasource [[x]]\n日本'


def test_prometheus_answers_every_query(prometheus: Prometheus):
    """Each query returns a result, also with hostile names and tags."""
    metrics = MetricsSystem(collector=PrometheusCollector(store=Store(tags={"service": HOSTILE})))
    collector = metrics.collector
    collector.describe("level", merge="max")
    collector.describe("cache.size", unit=MetricUnit.MEGABYTES)

    def record() -> None:
        collector.increment("grafana.requests", {"http.page": HOSTILE, "1st": "x"})
        collector.increment("请求数")
        collector.record_gauge("level", 3, {"größe": "x"})
        collector.record_gauge("cache.size", 3)
        collector.record_histogram("payload", 3, {"le": "mine"})
        collector.record_timer("wait", 3)
        with metrics.measure("succeeding", tags={"outcome": "mine"}):
            pass
        metrics.tracker.record_failure("failing", "timeout")

    with serve(0, metrics=metrics) as server:
        record()
        dashboard = json.loads(GrafanaDashboard("x.json").render(metrics))
        queries = {
            target["expr"].replace("$__rate_interval", "30s")
            for panel in dashboard["panels"]
            for target in panel.get("targets", ())
        }
        assert len(queries) == 17
        assert not [query for query in queries if "$" in query]
        # Also if the server accepts UTF-8.
        assert any('__name__=~"U___8bf7__6c42__6570___total|请求数_total"' in query for query in queries)
        prometheus.add_target("grafana", f"127.0.0.1:{server.port}")
        for query in sorted(queries):
            # A rate needs two scrapes, and a quantile something that was recorded between them.
            prometheus.wait_until(query, lambda found: record() is None and any(n == n for _, n in found))
        ((_, ratio),) = [
            sample
            for query in queries
            if "failing" in query and "vector(0)" in query
            for sample in prometheus.query(query)
        ]
        assert ratio == 1.0
