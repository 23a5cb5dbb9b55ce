"""Real servers have every series of a process, with its value."""

from __future__ import annotations

import math
import random
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.prometheus import Exposition, Format, Pushgateway, serve, write_textfile
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from tests.metrics_adapters.export.truth import VARIED, Truth, exposed
from tests.servers.fixtures import required
from tests.servers.process import request
from tests.servers.prometheus import running_prometheus

pytestmark = pytest.mark.heavy

JOB = "agreement"
INTERVAL_SECONDS = 1
SCRAPED = """
- job_name: soak
  scrape_interval: {}s
  scrape_timeout: {}s
  static_configs: [{{targets: ["127.0.0.1:{}"]}}]
"""


@pytest.fixture
def truth() -> Truth:
    """Return a system with records of each type."""
    return exposed(ManualClock(), VARIED)


def without(labels, *names):
    """Return labels without those that a server adds."""
    return {label: text for label, text in labels.items() if label not in names}


def test_promtool_reads_every_text(promtool, truth):
    """It reports only advice about names, no errors."""
    texts = [Exposition(truth.system.collector.store).render(Format.TEXT).decode()]
    texts.append(truth.system.aggregator.export_metrics("prometheus"))
    for text in texts:
        status, output = promtool(text)
        assert status in (0, 3), output


def test_prometheus_has_every_series(prometheus, truth):
    """After one scrape, its series are those of the process, in OpenMetrics."""
    with serve(0, metrics=truth.system) as server:
        prometheus.add_target(JOB, f"127.0.0.1:{server.port}")
        prometheus.wait_until(f'up{{job="{JOB}"}}', lambda found: found and found[0][1] == 1)
        series = prometheus.query(f'{{job="{JOB}"}}')
    own = ("up", "scrape_")
    truth.check(
        [
            (labels["__name__"], without(labels, "__name__", "job", "instance"), value)
            for labels, value in series
            if not labels["__name__"].startswith(own)
        ],
        openmetrics=True,
    )


def test_a_pushgateway_has_every_series(pushgateway, truth):
    """The text that it exposes has the pushed series, and times of its own."""
    gateway = Pushgateway(f"http://{pushgateway}", JOB)
    gateway.replace(truth.system)
    text = request("GET", pushgateway, "/metrics")[1]
    gateway.delete()
    truth.check(
        [
            (sample.name, without(sample.labels, "job", "instance"), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("job") == JOB and not family.name.startswith("push_")
        ],
        adds_sums=True,
    )


def test_node_exporter_has_every_series(node_exporter, truth):
    """The text that it exposes has the series of a textfile."""
    address, folder = node_exporter
    write_textfile(folder / "app.prom", truth.system)
    text = request("GET", address, "/metrics")[1]
    assert "node_textfile_scrape_error 0" in text
    truth.check(
        [
            sample[:3]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not family.name.startswith(("node_", "promhttp_"))
        ],
        adds_sums=True,
    )


def raw(prometheus, name, label, seconds):
    """Return the samples of each series of a name, by the value of a label."""
    found = prometheus.api("query", query=f"{name}[{seconds}s]")["result"]
    return {
        series["metric"].get(label, ""): [float(number) for _, number in series["values"]] for series in found
    }


def restarted_total(samples):
    """Return the total of a counter that may have restarted at zero."""
    following = [*samples[1:], 0]
    return sum(before for before, after in zip(samples, following, strict=True) if after < before)


@pytest.mark.soak
def test_prometheus_follows_a_process_that_records_removes_and_expires(soak, tmp_path):
    """Totals are equal, rates within the extrapolation, and quantiles in their bucket."""
    seconds, chance = soak(180), random.Random(1)
    store = Store(expire_after=timedelta(seconds=4))
    system = MetricsSystem(collector=InMemoryCollector(store))
    orders, jobs, sessions = Counter(), Counter(), Counter()
    sizes, moments = [], []
    with (
        serve(0, metrics=system) as server,
        running_prometheus(
            required("prometheus"), tmp_path, SCRAPED.format(INTERVAL_SECONDS, INTERVAL_SECONDS, server.port)
        ) as prometheus,
    ):
        prometheus.wait_until('up{job="soak"}', lambda found: found and found[0][1] == 1)
        collector, start = system.collector, time.monotonic()
        current = burst = 0
        while (elapsed := time.monotonic() - start) < seconds:
            kind, size = chance.choice("abc"), chance.lognormvariate(3, 2)
            collector.increment("orders", {"kind": kind})
            collector.record_histogram("size", size)
            orders[kind] += 1
            sizes.append(size)
            moments.append(time.time())
            if elapsed // 6 > current:  # its last record was three scrapes ago
                assert collector.remove("jobs", {"id": str(current)})
                current = int(elapsed // 6)
            if elapsed % 6 < 3:
                collector.increment("jobs", {"id": str(current)})
                jobs[str(current)] += 1
            if elapsed // 8 >= burst:  # it has expired, and restarts below its last value
                collector.record_counter("sessions", 1_000 - burst, {"user": "one"})
                sessions["one"] += 1_000 - burst
                burst += 1
            time.sleep(0.004)
        end = time.time()
        time.sleep(2.5 * INTERVAL_SECONDS)
        whole = seconds + 30
        assert {labels["kind"]: number for labels, number in prometheus.query("orders_total")} == orders
        assert {
            job: restarted_total(samples)
            for job, samples in raw(prometheus, "jobs_total", "id", whole).items()
        } == jobs
        found = raw(prometheus, "sessions_total", "user", whole)
        assert {user: restarted_total(samples) for user, samples in found.items()} == sessions
        assert max(found["one"]) < sessions["one"]  # it has expired
        assert [number for _, number in prometheus.query("size_count")] == [len(sizes)]
        ((_, total),) = prometheus.query("size_sum")
        assert total == pytest.approx(math.fsum(sizes), rel=1e-12)

        window = seconds // 2
        count = bisect_right(moments, end) - bisect_right(moments, end - window)
        rates = prometheus.api("query", query=f"sum(rate(orders_total[{window}s]))", time=str(end))["result"]
        # It extrapolates by up to 1.1 intervals at each end of the window.
        assert float(rates[0]["value"][1]) == pytest.approx(
            count / window, rel=2 * 1.1 * INTERVAL_SECONDS / window
        )

        bounds = sorted(float(labels["le"]) for labels, _ in prometheus.query("size_bucket"))
        sizes.sort()
        for quantile in (0.01, 0.1, 0.5, 0.9, 0.99):
            ((_, estimate),) = prometheus.query(f"histogram_quantile({quantile}, size_bucket)")
            exact = sizes[math.ceil(quantile * len(sizes)) - 1]
            place = bisect_left(bounds, exact)
            assert (0, *bounds)[place] <= estimate <= bounds[place], quantile
