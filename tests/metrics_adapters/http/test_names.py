"""Names of metrics in a scrape: their escaping, and their selection by ``name[]``; on each transport."""

from __future__ import annotations

import asyncio
import http.client
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from metrics_adapters.asgi import make_app
from metrics_adapters.prometheus import make_asgi_app, make_wsgi_app, serve
from metrics_framework import MetricsSystem
from metrics_framework.exposition.incremental import MetricText
from metrics_framework.values import MetricUnit
from tests.metrics_adapters.http.clients import get

UTF_8 = "text/plain;version=1.0.0;escaping=allow-utf-8"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;escaping={}"


def by_asgi(metrics, query, accept, **options):
    """Scrape the ASGI application."""
    response = asyncio.run(get(make_asgi_app(metrics, **options), f"/metrics?{query}", accept=accept))
    return response.status_code, response.headers["content-type"], response.text


def by_mount(metrics, query, accept, **options):
    """Scrape the ASGI application, mounted in Starlette."""
    app = Starlette(routes=[Mount("/metrics", make_asgi_app(metrics, **options))])
    response = asyncio.run(get(app, f"/metrics/?{query}", accept=accept))
    return response.status_code, response.headers["content-type"], response.text


def by_wsgi(metrics, query, accept, **options):
    """Scrape the WSGI application."""
    environ, started = {"PATH_INFO": "/metrics", "QUERY_STRING": query, "HTTP_ACCEPT": accept}, []
    setup_testing_defaults(environ)
    chunks = make_wsgi_app(metrics, **options)(environ, lambda *args: started.append(args))
    body = b"".join(chunks).decode()
    status, headers = started[0]
    return int(status.split()[0]), dict(headers)["Content-Type"], body


def by_server(metrics, query, accept, **options):
    """Scrape the server."""
    with serve(0, metrics=metrics, **options) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", f"/metrics?{query}", headers={"Accept": accept})
        response = connection.getresponse()
        found = response.status, response.headers["Content-Type"], response.read().decode()
        connection.close()
    return found


TRANSPORTS = [by_asgi, by_mount, by_wsgi, by_server]


@pytest.fixture
def metrics(clock):
    """Return a system with classic names and others."""
    system = MetricsSystem(clock=clock)
    system.collector.increment("http.requests", {"http.route": "/"})
    system.collector.counter("请求数", {"路由": "/a"}).add(2)
    system.collector.counter("错误数").add(3)
    system.collector.describe("流量", unit=MetricUnit.BYTES)
    system.collector.counter("流量").add(4)
    system.collector.record_gauge("café.size", 5)
    system.timer.stop_timer(system.timer.start_timer("耗时"))
    return system


def samples(text, accept):
    """Return the samples of a text that have no bucket, by name and labels."""
    parse = openmetrics_families if "openmetrics" in accept else text_string_to_metric_families
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_sum"))
    }


UNESCAPED = {
    ("http_requests_total", ("http_route", "/")): 1,
    ("请求数_total", ("路由", "/a")): 2,
    ("错误数_total",): 3,
    ("流量_bytes_total",): 4,
    ("café_size",): 5,
    ("耗时_duration_seconds_count",): 1,
}
ESCAPED = {
    ("http_requests_total", ("http_route", "/")): 1,
    ("U___8bf7__6c42__6570___total", ("U___8def__7531_", "/a")): 2,
    ("U___9519__8bef__6570___total",): 3,
    ("U___6d41__91cf___bytes__total",): 4,
    ("U__caf_e9___size",): 5,
    ("U___8017__65f6___duration__seconds_count",): 1,
}


@pytest.mark.parametrize("scrape", TRANSPORTS)
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", ESCAPED),
        ("text/plain;version=1.0.0;escaping=underscores", ESCAPED),
        (UTF_8, UNESCAPED),
        *[(OPENMETRICS.format(scheme), ESCAPED) for scheme in ("underscores", "dots", "values")],
        (OPENMETRICS.format("allow-utf-8"), UNESCAPED),
    ],
)
def test_names_are_escaped_for_scrapers_that_do_not_accept_utf_8(scrape, metrics, accept, expected):
    """Different names stay different for every scraper; classic names are the same for all."""
    status, content_type, text = scrape(metrics, "", accept)
    assert (status, samples(text, accept)) == (200, expected)
    assert content_type.partition("escaping=")[2] == accept.partition("escaping=")[2]


def test_names_outside_the_classic_set_are_quoted(metrics):
    """The syntax of UTF-8 names is used only for them, in headers too."""
    _, _, text = by_asgi(metrics, "", UTF_8)
    lines = [line for line in text.splitlines() if "bucket" not in line]
    assert 'http_requests_total{http_route="/"} 1' in lines
    assert '# TYPE "请求数_total" counter' in lines
    assert '{"请求数_total","路由"="/a"} 2' in lines
    assert '{"错误数_total"} 3' in lines
    assert '{"耗时_duration_seconds_count"} 1' in lines
    _, _, text = by_asgi(metrics, "", OPENMETRICS.format("allow-utf-8"))
    assert '# TYPE "流量_bytes" counter\n# UNIT "流量_bytes" bytes\n' in text
    _, _, text = by_asgi(metrics, "", OPENMETRICS.format("values"))
    assert "# TYPE U___6d41__91cf___bytes_ counter\n# HELP" in text  # its unit is not at the end
    assert "\nU___6d41__91cf___bytes__total 4\n" in text


def test_a_new_tag_is_quoted_from_its_first_scrape_on(metrics):
    """A metric whose name is classic may get other tags at any time."""
    app = make_asgi_app(metrics)
    asyncio.run(get(app, "/metrics", accept=UTF_8))
    metrics.collector.increment("http.requests", {"路由": "/b"})
    text = asyncio.run(get(app, "/metrics", accept=UTF_8)).text
    assert 'http_requests_total{"路由"="/b"} 1' in text
    assert 'http_requests_total{U___8def__7531_="/b"} 1' in asyncio.run(get(app, "/metrics")).text


@pytest.mark.parametrize("scrape", TRANSPORTS)
@pytest.mark.parametrize(
    ("names", "families"),
    [
        (["http_requests_total"], {"http_requests"}),
        (["http_requests"], {"http_requests"}),
        (["请求数_total", "U__caf_e9___size"], {"请求数", "café_size"}),
        (["耗时_duration_seconds_bucket"], {"耗时_duration_seconds"}),
        (["own_seconds_sum", "http_requests_total"], {"http_requests", "own_seconds"}),
        (["own_seconds"], {"own_seconds"}),
        (["missing"], set()),
    ],
)
def test_name_selects_families(scrape, metrics, names, families):
    """By the names of families or of their samples, also those of a registry."""
    registry = CollectorRegistry()
    Histogram("own_seconds", "Own.", registry=registry).observe(1)
    Counter("other", "Other.", registry=registry)
    query = urlencode([("name[]", name) for name in names])
    status, _, text = scrape(metrics, query, UTF_8, registry=registry)
    found = {family.name for family in text_string_to_metric_families(text)}
    assert (status, found - {"own_seconds_created"}) == (200, families)


def test_an_empty_name_selects_all_families(metrics):
    """The field is ignored, as by prometheus_client."""
    assert by_wsgi(metrics, "name[]=", UTF_8) == by_wsgi(metrics, "", UTF_8)


def test_other_fields_of_the_query_are_ignored(metrics):
    """A scraper may add parameters; only too many are an error."""
    _, _, whole = by_wsgi(metrics, "", UTF_8)
    assert by_wsgi(metrics, "name=x&collect[]=y&z", UTF_8)[2] == whole
    assert by_wsgi(metrics, "a&" * 2_000, UTF_8)[::2] == (400, "the query has more than 1000 fields\n")


def test_the_application_of_a_system_selects_families(metrics):
    """Its metrics endpoint is the same."""
    app = make_app(metrics)
    response = asyncio.run(get(app, "/metrics?name[]=http_requests", accept=UTF_8))
    assert {family.name for family in text_string_to_metric_families(response.text)} == {"http_requests"}


def test_only_selected_families_are_rendered(metrics, monkeypatch):
    """Their number, not that of all metrics, decides what a scrape costs; other collectors are not called."""
    registry, calls = CollectorRegistry(auto_describe=True), []

    class Expensive:
        def collect(self):
            calls.append("collect")
            return [Counter("expensive", "Expensive.", registry=None).collect()[0]]

    registry.register(Expensive())
    calls.clear()
    rendered = []
    pieces = MetricText.pieces
    monkeypatch.setattr(
        MetricText, "pieces", lambda text, *args: rendered.append(text.header.name) or pieces(text, *args)
    )
    by_wsgi(metrics, "name[]=http_requests_total", UTF_8, registry=registry)
    assert (rendered, calls) == (["http_requests"], [])
    by_wsgi(metrics, "name[]=expensive_total", UTF_8, registry=registry)
    assert (rendered, calls) == (["http_requests"], ["collect"])


def test_the_names_of_a_registry_follow_the_scheme(metrics):
    """prometheus_client renders its own metrics by the scheme of the scraper."""
    registry = CollectorRegistry()
    Counter("own.requests", "Own.", registry=registry)
    for scheme, name in (
        ("allow-utf-8", '{"own.requests_total"} 0.0'),
        ("underscores", "own_requests_total 0.0"),
        ("dots", "own_dot_requests__total 0.0"),
        ("values", "U__own_2e_requests__total 0.0"),
    ):
        assert name in by_wsgi(metrics, "", OPENMETRICS.format(scheme), registry=registry)[2]
    assert "own_requests_total 0.0" in by_wsgi(metrics, "", "*/*", registry=registry)[2]
    assert generate_latest(registry).decode() in by_wsgi(metrics, "", "*/*", registry=registry)[2]
