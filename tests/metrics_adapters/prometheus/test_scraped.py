"""The exposition of a store: a real Prometheus reads the metrics of the process."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, Counter

from metrics_adapters.prometheus import Exposition, Format, PrometheusCollector, serve
from metrics_framework import MetricsSystem
from metrics_framework.recording import Store
from metrics_framework.recording.buckets import default_bounds
from metrics_framework.values import MetricUnit
from tests.metrics_framework.exposition.test_incremental import parsed
from tests.metrics_framework.exposition.test_scraped import NASTY, NUMBERS, Read, read, selected, series
from tests.servers.fixtures import Promtool, required
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.heavy


def shown(exposition: Exposition) -> Read:
    """Return the samples of an exposition, by the keys of `read`."""
    found: Read = {}
    for family in parsed(exposition.render(), Format.TEXT).values():
        for (name, labels), value in family[3].items():
            found[series(name, **dict(labels))] = value
    return found


@pytest.fixture(scope="module")
def shop() -> MetricsSystem:
    """Return a system with described metrics of every type."""
    metrics = MetricsSystem(
        collector=PrometheusCollector(CollectorRegistry(), Store(tags={"service": "shop"}))
    )
    collector = metrics.collector
    collector.describe("http.requests", help='Requests, by\n"page" and \\ — all.')
    collector.describe("cache.size", unit=MetricUnit.MEGABYTES, help="The size of the cache.")
    collector.describe("payload", unit=MetricUnit.BYTES, help="Payloads.", buckets=[10, 100, 1000])
    collector.describe("level", help="The level.")
    collector.record_counter("http.requests", 3, {"page": 'a "b"\n\\c', "größe": "日本"})
    collector.record_counter("http.requests", 0.5)
    collector.record_gauge("cache.size", 1.5)
    for place, number in enumerate(NUMBERS):
        collector.record_gauge("level", number, {"place": str(place)})
    chosen = random.Random(1)
    for _ in range(1_000):
        collector.record_histogram("payload", chosen.lognormvariate(4, 1), {"kind": chosen.choice("ab")})
        series = metrics.timer.store.find_timing("order")
        series.observe(chosen.lognormvariate(4, 1))
    metrics.tracker.record_success("push")
    metrics.tracker.record_failure("push", 'time"out\n')
    return metrics


@pytest.fixture(scope="module")
def hostile() -> Store:
    """Return a store in which every nasty text is a name, a tag, a tag value and a help text."""
    store = Store(on_error="log")
    collector = PrometheusCollector(CollectorRegistry(), store)
    for place, text in enumerate(NASTY):
        collector.describe(f"g{place}{text}", help=text)
        collector.record_gauge(f"g{place}{text}", place, {f"t{text}": text, "same": "x"})
        collector.increment(f"c{place}", {"text": text, "place": text})
        collector.record_histogram(f"h{place}", place, {"text": text, "le": text})
        if text:
            collector.record_gauge(text, place, {"recorded_as": text, text: "x"})
    return store


@pytest.fixture(scope="module")
def growing() -> MetricsSystem:
    """Return a system for records during scrapes."""
    return MetricsSystem(collector=PrometheusCollector(CollectorRegistry()))


@pytest.fixture(scope="module")
def scraped(prometheus, shop, hostile, growing) -> Iterator[Prometheus]:
    """Return a Prometheus that scrapes all of them, and the metrics of an application after the first."""
    registry = CollectorRegistry()
    Counter("own", "Theirs.", registry=registry).inc(7)
    with ExitStack() as servers:
        for job, metrics, own in (
            ("shop", shop, registry),
            ("hostile exposition", hostile, None),
            ("growing exposition", growing, None),
        ):
            server = servers.enter_context(serve(0, metrics=metrics, registry=own))
            prometheus.add_target(job, f"127.0.0.1:{server.port}")
        yield prometheus


def test_prometheus_has_exactly_the_samples_of_the_process(scraped, shop):
    """The database has each series of each type, and no others."""
    expected = shown(Exposition(shop.collector.store))
    found = read(scraped.wait_until(selected("shop"), bool))
    assert found.pop(series("own_total")) == 7
    found = {key: value for key, value in found.items() if not key[0].endswith("_created")}
    assert found == expected
    assert found[series("http_requests_total", page='a "b"\n\\c', U__gr_f6__df_e="日本", service="shop")] == 3
    assert found[series("cache_size_bytes", service="shop")] == 1_500_000
    assert found[series("order_duration_seconds_count", service="shop")] == 1_000


def test_quantiles_differ_by_less_than_a_bucket(scraped, shop):
    """Prometheus' estimate lies in the bucket of the exact quantile."""
    scraped.wait_until(selected("shop"), bool)
    stats = shop.timer.get_timing_stats("order")
    bounds = default_bounds(MetricUnit.SECONDS)
    for key, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        query = f'histogram_quantile({share}, order_duration_seconds_bucket{{job="shop"}})'
        ((_, found),) = scraped.query(query)
        place = bisect_left(bounds, stats[key] / 1000)
        lower = bounds[place - 1] if place else 0
        assert lower <= found <= bounds[place]


def test_rates_equal_those_of_the_process(scraped, growing):
    """With a steady rate of records, both report the same rate, and finally the same total."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            growing.collector.increment("steady")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        query = 'rate(steady_total{job="growing exposition"}[4s])'
        scraped.wait_until(query, bool, 30)
        time.sleep(6)
        ((_, found),) = scraped.query(query)
        own = growing.aggregator.get_metric_summary("steady", timedelta(seconds=4))["rate"]
    finally:
        stop.set()
        worker.join()
    assert found == pytest.approx(own, rel=0.3)
    total = growing.aggregator.get_metric_summary("steady")["total"]
    query = 'steady_total{job="growing exposition"}'
    scraped.wait_until(query, lambda found: [value for _, value in found] == [total])


def test_hostile_texts_arrive_and_affect_no_other_metric(scraped, hostile):
    """Names, tags, values and help texts that break formats arrive intact."""
    expected = shown(Exposition(hostile))
    found = read(scraped.wait_until(selected("hostile exposition"), bool))
    assert found == expected
    assert {f"c{place}_total" for place in range(len(NASTY))} <= {name for name, _ in found}


def test_types_units_and_help_are_known(scraped):
    """A server that requests OpenMetrics receives type, unit and help text."""
    scraped.wait_until(selected("shop"), bool)
    known = {one["metric"]: one for one in scraped.api("targets/metadata", match_target='{job="shop"}')}
    assert known["payload_bytes"]["type"] == "histogram"
    assert known["payload_bytes"]["unit"] == "bytes"
    assert known["order_duration_seconds"]["unit"] == "seconds"
    assert known["http_requests"]["type"] == "counter"
    assert known["http_requests"]["help"] == 'Requests, by\n"page" and \\ — all.'


def test_promtool_finds_nothing_in_described_metrics(promtool: Promtool, shop):
    """Promtool reports neither errors nor advice for described metrics with plain names."""
    assert promtool(Exposition(shop.collector.store).render().decode()) == (0, "")


def test_a_query_over_all_failures_sees_the_first_failure(tmp_path):
    """The series of failures that is always 0 gives the sum a value to increase from."""
    metrics = MetricsSystem(collector=PrometheusCollector(CollectorRegistry()))
    seen: list[Read] = []
    for outcome in (None, None, "timeout", None):
        with metrics.measure("push") as push:
            push.error_type = outcome
        seen.append(shown(Exposition(metrics.collector.store)))
    names = [key for key in seen[-1] if key[0] == "push_operations_total"]
    rules = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": f"{name}{{{','.join(f'{tag}={json.dumps(at)}' for tag, at in labels)}}}",
                        "values": " ".join(str(each.get((name, labels), "_")) for each in seen),
                    }
                    for name, labels in names
                ],
                "promql_expr_test": [
                    {
                        "expr": 'increase(sum(push_operations_total{outcome="failure"})[4m:1m]) > bool 0',
                        "eval_time": "3m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "rules.json"  # JSON is YAML
    path.write_text(json.dumps(rules))
    command = [required("promtool"), "test", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_reads_hostile_texts(promtool: Promtool, hostile):
    """The text is valid: promtool has only advice."""
    status, output = promtool(Exposition(hostile).render().decode())
    assert status == 3, output
