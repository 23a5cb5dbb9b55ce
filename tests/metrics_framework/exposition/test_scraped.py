"""The Prometheus text of `export_metrics`: real servers read the recorded metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.exposition.families import replace_unreadable
from metrics_framework.exposition.names import label_name, metric_name
from metrics_framework.recording.buckets import default_bounds
from metrics_framework.values import MetricUnit
from tests.servers.fixtures import Promtool
from tests.servers.pages import serving
from tests.servers.process import request
from tests.servers.prometheus import Prometheus, Sample

pytestmark = pytest.mark.heavy

Read = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Numbers by the names and labels of their series."""

NASTY = [
    *("", " ", "\t", "\n", "\r\n", "\r", "a\0b", "\0\0c", "\x01\x7f", "\x85", "\u2028\u2029", "\ufeff"),
    *("\u202e", "\uffff", '"', "'", '\\"', "\\", "\\\\", "\\n", "a\\", '"} 1\nforged{x="', "{}", "},{"),
    *(",", "=", "#", "%s", "$1", "NaN", "+Inf", "0", "-1", "1e5", "x 1 2", "<b>&amp;", "../..", "a.b:c-d e"),
    *("# HELP x y", "# TYPE x counter", "# EOF", "\n# EOF\n", "größe", "日本", "😀", "e\u0301", "ß" * 2000),
    *("\udc80", "caf\udce9"),
]
"""Texts that break formats; two are bytes of file names that were no UTF-8, as `os.fsdecode` returns them."""

NUMBERS = [0, -0.0, -2.5, 1e-320, 5e-324, 1.7976931348623157e308, 2**53, 2**53 + 1, -(10**40), 0.1 + 0.2]


def page(metrics: MetricsSystem) -> str:
    """Return the text that a server scrapes."""
    return metrics.aggregator.export_metrics("prometheus")


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a series; a label without a text counts as missing."""
    numbers = {label: str(float(labels[label])) for label in ("le",) if label in labels}
    return name, frozenset((label, text) for label, text in {**labels, **numbers}.items() if text)


def read(samples: list[Sample]) -> Read:
    """Return the samples of one target without the labels of the target."""
    found: Read = {}
    for labels, number in samples:
        own = {label: text for label, text in labels.items() if label not in ("__name__", "job", "instance")}
        found[series(labels["__name__"], **own)] = number
    assert len(found) == len(samples)
    return found


def selected(job: str) -> str:
    """Return the query for all samples of a target, without those that Prometheus adds."""
    return f'{{job="{job}", __name__!~"up|scrape_.+"}}'


@pytest.fixture(scope="module")
def plain() -> MetricsSystem:
    """Return a system with metrics of every type, each with a help text."""
    metrics = MetricsSystem(clock=ManualClock())
    collector = metrics.collector
    collector.describe("http.requests", help="Requests, by\n\"page\" and \\ 'verb' — all.")
    collector.record_counter("http.requests", 3, {"page": 'a "b"\n\\c', "größe": "日本"})
    collector.record_counter("http.requests", 0.5)
    collector.describe("level", help="The level.")
    for place, number in enumerate(NUMBERS):
        collector.record_gauge("level", number, {"place": str(place)})
    collector.describe("cache.size", unit=MetricUnit.MEGABYTES, help="The size of the cache.")
    collector.record_gauge("cache.size", 1.5)
    collector.describe("db.query", help="Queries.")
    collector.describe("payload", help="Payloads.", buckets=[1, 2.5, 10])
    for number in range(1, 101):
        collector.record_timer("db.query", number, tags={"table": "users"})
        collector.record_histogram("payload", number / 8, {"le": "mine"})
    metrics.tracker.record_success("push")
    metrics.tracker.record_failure("push", "timeout")
    return metrics


def plain_series(metrics: MetricsSystem) -> Read:
    """Return the records of the system of `plain`."""
    bounds = (*default_bounds(MetricUnit.MILLISECONDS), math.inf)
    return {
        series("http_requests_total", page='a "b"\n\\c', U__gr_f6__df_e="日本"): 3,
        series("http_requests_total"): 0.5,
        **{series("level", place=str(place)): float(number) for place, number in enumerate(NUMBERS)},
        series("cache_size_bytes"): 1_500_000,
        **{
            series("db_query_seconds_bucket", table="users", le=str(bound / 1000)): min(bound, 100) // 1
            for bound in bounds
        },
        series("db_query_seconds_sum", table="users"): 5.05,
        series("db_query_seconds_count", table="users"): 100,
        series("payload_bucket", exported_le="mine", le="1"): 8,
        series("payload_bucket", exported_le="mine", le="2.5"): 20,
        series("payload_bucket", exported_le="mine", le="10"): 80,
        series("payload_bucket", exported_le="mine", le="+Inf"): 100,
        series("payload_sum", exported_le="mine"): 631.25,
        series("payload_count", exported_le="mine"): 100,
        series("push_operations_total", outcome="success"): 1,
        series("push_operations_total", outcome="failure"): 0,
        series("push_operations_total", outcome="failure", error_type="timeout"): 1,
    }


@pytest.fixture(scope="module")
def hostile() -> MetricsSystem:
    """Return a system in which every nasty text is a name, a tag, a tag value and a help text."""
    metrics = MetricsSystem(clock=ManualClock())
    for place, text in enumerate(NASTY):
        metrics.collector.describe(f"g{place}{text}", help=text)
        metrics.collector.record_gauge(f"g{place}{text}", place, {f"t{text}": text, "same": "x"})
        if text:
            metrics.collector.record_gauge(text, place, {"recorded_as": text, text: "x"})
    return metrics


def hostile_series() -> Read:
    """Return the records of the system of `hostile`; of conflicting names, the first."""
    found: Read = {}
    names: set[str] = set()
    for place, text in enumerate(NASTY):
        sent, name = replace_unreadable(text), metric_name(text.replace(":", "_"))
        labels = {label_name(f"t{text}"): sent, "same": "x"}
        found[series(metric_name(f"g{place}{text}".replace(":", "_")), **labels)] = place
        if text and name not in names:
            names.add(name)
            found[series(name, **{"recorded_as": sent, label_name(text): "x"})] = place
    return found


@pytest.fixture(scope="module")
def growing() -> MetricsSystem:
    """Return a system for a test that records during scrapes."""
    return MetricsSystem(clock=ManualClock())


@pytest.fixture(scope="module")
def scraped(prometheus, plain, hostile, growing) -> Iterator[Prometheus]:
    """Return a Prometheus that scrapes all three systems."""
    with ExitStack() as pages:
        for job, metrics in (("plain", plain), ("hostile", hostile), ("growing", growing)):
            prometheus.add_target(job, pages.enter_context(serving(partial(page, metrics))))
        yield prometheus


# -- Prometheus --------------------------------------------------------------------------------------------


def test_prometheus_stores_exactly_the_records(scraped, plain):
    """The database has every number and label of every type, and no others."""
    assert read(scraped.wait_until(selected("plain"), bool)) == plain_series(plain)


def test_prometheus_sees_later_records(scraped, growing):
    """Later records reach the server, and no label of the target hides theirs."""
    tags = {"job": "mine", "instance": "b", "__name__": "c", "page": ""}
    labels = {"exported_job": "mine", "exported_instance": "b", "key_name__": "c"}
    for number, total in ((39.5, 39.5), (0.5, 40)):
        growing.collector.record_counter("hits", number, tags)
        expected = {series("hits_total", **labels): total}
        scraped.wait_until(selected("growing"), lambda found, expected=expected: read(found) == expected)


def test_prometheus_knows_types_and_help(scraped):
    """Types and help texts are the described ones, with quotes, line breaks and backslashes."""
    scraped.wait_until(selected("plain"), bool)
    known = scraped.api("targets/metadata", match_target='{job="plain"}')
    assert {family["metric"]: (family["type"], family["help"]) for family in known} == {
        "http_requests_total": ("counter", "Requests, by\n\"page\" and \\ 'verb' — all."),
        "level": ("gauge", "The level."),
        "cache_size_bytes": ("gauge", "The size of the cache."),
        "db_query_seconds": ("histogram", "Queries."),
        "payload": ("histogram", "Payloads."),
        "push_operations_total": ("counter", "Outcomes of operation 'push'."),
    }


def test_prometheus_accepts_hostile_texts(scraped):
    """Names, tags and values that break formats arrive intact, and affect no other metric."""
    assert read(scraped.wait_until(selected("hostile"), bool)) == hostile_series()
    known = scraped.api("targets/metadata", match_target='{job="hostile"}')
    helps = {family["metric"]: family["help"] for family in known}
    # The server itself strips leading blanks.
    expected = {
        metric_name(f"g{place}{text}".replace(":", "_")): replace_unreadable(text).lstrip(" \t")
        for place, text in enumerate(NASTY)
        if text
    }
    assert {name: helps[name] for name in expected} == expected


# -- promtool ----------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_in_described_metrics(promtool: Promtool, plain):
    """Promtool reports neither errors nor advice for described metrics with plain names."""
    assert promtool(page(plain)) == (0, "")


def test_promtool_has_only_advice_on_hostile_texts(promtool: Promtool, hostile):
    """The text is valid: promtool comments only on words in names and help texts."""
    status, output = promtool(page(hostile))
    assert status == 3
    assert {line.split(" ", 1)[1] for line in output.splitlines()} == {
        "no help text",  # of blanks
        "label names should be written in 'snake_case' not 'camelCase'",
        "metric names should be written in 'snake_case' not 'camelCase'",
        "metric names should not contain abbreviated units",
        "metric name should not include type 'counter'",
    }


def test_promtool_finds_a_broken_text(promtool: Promtool, plain):
    """Promtool reports a text that lacks one byte."""
    assert promtool(page(plain).replace('"} 3\n', "} 3\n"))[0] == 1


# -- Pushgateway -------------------------------------------------------------------------------------------


def pushed(pushgateway: str, job: str, metrics: MetricsSystem) -> Read:
    """Push the text of a system and return the metrics that the gateway then shows."""
    assert request("PUT", pushgateway, f"/metrics/job/{job}", page(metrics)) == (200, "")
    _, text = request("GET", pushgateway, "/metrics")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    own = {"push_time_seconds", "push_failure_time_seconds"}
    return read(
        [
            ({**sample.labels, "__name__": sample.name}, sample.value)
            for sample in samples
            if sample.labels.get("job") == job and sample.name not in own
        ]
    )


def test_a_pushgateway_shows_the_pushed_metrics(pushgateway, plain):
    """The page of the gateway has every series with its number."""
    assert pushed(pushgateway, "plain", plain) == plain_series(plain)


def test_a_pushgateway_accepts_hostile_texts(pushgateway, hostile):
    """Names, tags and values that break formats appear unchanged on the page of the gateway."""
    assert pushed(pushgateway, "hostile", hostile) == hostile_series()
