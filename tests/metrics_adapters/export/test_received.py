"""Real servers receive complete exports, and nothing is lost if a server dies during one."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

import pytest

from metrics_adapters import http_client
from metrics_adapters import influx as influx_module
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework import MetricsSystem, MetricType
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from tests.metrics_adapters.export.paths import read_path, read_tagged
from tests.servers.fixtures import required
from tests.servers.process import request
from tests.servers.receivers import Receiver, free_ports, started

pytestmark = pytest.mark.heavy

HOSTILE = {"route": '/a b,c=d;e|f"g\\', "é\n": "ü:#\r\n", "empty": "", "time": "~x"}


class Interrupting(InMemoryAggregator):
    """An aggregator that runs a function once while it is read."""

    def __init__(self, store):
        super().__init__(store)
        self.interrupt = None

    def iter_metrics(self):
        """Yield the series, and run the function before the middle one."""
        values = list(super().iter_metrics())
        for number, value in enumerate(values):
            if number == len(values) // 2 and self.interrupt is not None:
                interrupt, self.interrupt = self.interrupt, None
                interrupt()
            yield value


@pytest.fixture
def metrics():
    """Return a system with 40 counters and an aggregator that can be interrupted."""
    collector = InMemoryCollector()
    made = MetricsSystem(collector=collector, aggregator=Interrupting(collector.store))
    count(made)
    return made


def count(metrics):
    """Add 1 to each of 40 counters."""
    for number in range(40):
        metrics.collector.increment(f"orders.n{number:02d}", {"kind": "a"})


def export(metrics, url):
    """Export once; return whether it succeeded."""
    answer = asyncio.run(metrics.export_metrics_async([url]))
    assert answer.keys() == {url}
    return answer[url]


def everything():
    """Return a system with a metric of each type and an operation, with unusual names and tags."""
    system = MetricsSystem()
    system.collector.record_counter("http.requests", 5, HOSTILE)
    system.collector.record_counter("http.requests", 2.5, {"route": "/"})
    system.collector.record_gauge("level", -2.5, {"room": "1"})
    for value in (1, 2, 3):
        system.collector.record_histogram("size", value)
    system.collector.increment('#odd "name", with\n=every/thing\\')
    with system.measure("load", {"from": "disk"}):
        pass
    return system


# -- StatsD ----------------------------------------------------------------------------------------------


def wait_for(read, wanted):
    """Wait for an expected response, and return the last one."""
    end = time.monotonic() + 30
    while (found := read()) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_statsd_receives_increments(statsd):
    """Counters arrive as increments and gauges as values, also negative ones. No line is invalid."""
    system = everything()
    url = f"statsd://{statsd.address}?prefix=app"
    for _ in range(2):
        assert export(system, url)
    system.collector.record_counter("http.requests", 1, {"route": "/"})
    system.collector.record_gauge("level", 3, {"room": "1"})
    assert export(system, url)
    assert wait_for(lambda: statsd.counters.get("app.http.requests.route=U___2F_"), 3.5) == 3.5
    assert statsd.counters["app.size.count"] == 3
    assert statsd.counters["app.load.from=disk.operations_successes"] == 1
    assert statsd.gauges["app.level.room=1"] == 3
    system.collector.record_gauge("level", -7, {"room": "1"})
    assert export(system, url)
    assert wait_for(lambda: statsd.gauges["app.level.room=1"], -7) == -7
    assert statsd.gauges["app.size.p95"] == 3
    assert statsd.bad_lines == 0
    assert sum("http.requests" in name for name in statsd.counters) == 2


@pytest.mark.parametrize("tags", ["datadog", "influx"])
def test_statsd_takes_tags_without_bad_lines(statsd, tags):
    """Lines with any tags are valid for the daemon."""
    assert export(everything(), f"statsd://{statsd.address}?tags={tags}")
    assert wait_for(lambda: statsd.counters != {}, True)
    assert statsd.bad_lines == 0


def test_nothing_is_lost_when_a_statsd_daemon_dies(statsd, metrics):
    """The counts of the daemon and of its successor add up to the total."""
    before = {}

    def die():
        while statsd.counters != before or not before:  # until it has read all that was sent
            before.update(statsd.counters)
            time.sleep(0.1)
        statsd.kill()

    url = f"statsd://{statsd.address}?mtu=100"
    assert export(metrics, url)
    assert len(wait_for(lambda: statsd.counters, dict.fromkeys(statsd.counters, 1.0))) == 40
    statsd.kill()
    statsd.start()
    count(metrics)
    metrics.aggregator.interrupt = die
    assert not export(metrics, url)
    assert "Connection refused" in metrics.export_failures[f"statsd://{statsd.address}"]
    assert 0 < len(before) < 40
    count(metrics)
    statsd.start()
    assert export(metrics, url)
    assert metrics.export_failures == {}
    names = [f"orders.n{number:02d}.kind=a" for number in range(40)]

    def totals():
        after = statsd.counters
        return [before.get(name, 0) + after.get(name, 0) for name in names]

    assert wait_for(totals, [2.0] * 40) == [2.0] * 40


# -- InfluxDB --------------------------------------------------------------------------------------------


def test_influxdb_takes_every_line(influx):
    """Unusual names and tags arrive, with the recorded numbers and timestamps."""
    assert export(everything(), f"influx+http://{influx.address}?db=app")
    (size,) = influx.query("SELECT * FROM size", "app")
    assert {name: size[name] for name in ("count", "sum", "p50", "max")} == {
        "count": 3,
        "sum": 6,
        "p50": 2,
        "max": 3,
    }
    (level,) = influx.query("SELECT * FROM level", "app")
    assert (level["value"], level["room"]) == (-2.5, "1")
    hostile, plain = sorted(
        influx.query('SELECT * FROM "http.requests"', "app"), key=lambda row: -row["value"]
    )
    assert (hostile["value"], plain["value"], plain["route"]) == (5, 2.5, "/")
    assert hostile["route"] == 'U__/a b,c=d;e|f"g_5C_'
    assert (hostile["U__é_A_"], hostile["U__time"], hostile["empty"]) == ("U__ü:#_D__A_", "~x", "U__")
    (load,) = influx.query('SELECT * FROM "load"', "app")
    assert (load["operations_successes"], load["operations_failures"], load["from"]) == (1, 0, "disk")
    assert len(influx.query("SHOW MEASUREMENTS", "app")) == 5


def test_a_rejection_by_influxdb_is_quoted(influx, caplog):
    """If the database does not exist, the log and the system have the reason of the server."""
    system = everything()
    url = f"influx+http://me:geheim@{influx.address}?db=nowhere"
    assert not export(system, url)
    (reason,) = system.export_failures.values()
    assert "RefusedError" in reason
    assert "database not found" in reason
    assert "database not found" in caplog.text
    assert "geheim" not in reason + caplog.text


@pytest.mark.parametrize("compressed", ["yes", "no"])
def test_nothing_is_lost_when_an_influxdb_dies(influx, metrics, compressed, monkeypatch):
    """The next export sends all totals again."""
    url = f"influx+http://{influx.address}?db=app&batch=1&gzip={compressed}"
    requests = []

    def deliver(*request, **options):
        requests.append(request)
        if len(requests) == 20:
            influx.kill()
        http_client.deliver(*request, **options)

    monkeypatch.setattr(influx_module, "deliver", deliver)
    assert not export(metrics, url)
    assert len(requests) == 20
    count(metrics)
    assert not export(metrics, url)
    influx.start()
    count(metrics)
    assert export(metrics, url)
    rows = influx.query("SELECT last(value) FROM /orders/", "app")
    assert [row["last"] for row in rows] == [3] * 40


def test_victoriametrics_takes_every_influx_line(victoria_metrics):
    """Lines for InfluxDB become series of VictoriaMetrics."""
    assert export(everything(), f"influx+http://{victoria_metrics.address}?db=app")
    found = victoria_metrics.series('{db="app"}', least=28)
    names = {json.loads(labels)["__name__"]: value for labels, value in found.items()}
    assert names["size_p50"] == 2
    assert names["level_value"] == -2.5
    assert names["load_operations_successes"] == 1


def test_version_2_of_influxdb_has_its_own_path(victoria_metrics):
    """A bucket is written through `/api/v2/write`."""
    assert export(everything(), f"influx+http://:token@{victoria_metrics.address}?org=me&bucket=app")
    assert victoria_metrics.series('{__name__="size_count"}') == {'{"__name__": "size_count"}': 3}


# -- Graphite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        ("none", {"__name__": "app.http.requests.route=U___2F_"}),
        ("graphite", {"__name__": "app.http.requests", "route": "/"}),
    ],
)
def test_graphite_lines_are_read(victoria_metrics, tags, labels):
    """Each number arrives under its path, with tags in the path or after it."""
    assert export(everything(), f"graphite://{victoria_metrics.graphite}?prefix=app&tags={tags}")
    found = victoria_metrics.series('{__name__=~"app.*"}', least=24)
    assert found[json.dumps(labels, sort_keys=True)] == 2.5
    assert found['{"__name__": "app.size.p50"}'] == 2
    names = [json.loads(labels)["__name__"] for labels in found]
    assert all(re.fullmatch(r"[A-Za-z0-9_.=-]+", name) for name in names)
    assert sum(name.startswith("app.http.requests") for name in names) == 2


def test_nothing_is_lost_when_a_graphite_server_dies(victoria_metrics, metrics):
    """The export fails if the server dies before it has read everything. The next one sends all totals."""
    url = f"graphite://{victoria_metrics.graphite}"
    assert export(metrics, url)
    count(metrics)
    assert not export_while_killed(victoria_metrics, metrics, url)
    count(metrics)
    assert not export(metrics, url)
    victoria_metrics.start()
    time.sleep(1)  # Graphite's moments are whole seconds
    assert export(metrics, url)
    found = victoria_metrics.series('{__name__=~"orders.*"}', least=40)
    assert list(found.values()) == [3] * 40


def export_while_killed(server, metrics, url):
    """Export to a server that reads nothing and is killed during the export."""
    server.suspend()
    killer = threading.Timer(0.3, server.kill)
    killer.start()
    try:
        return export(metrics, url)
    finally:
        killer.join()


def test_a_hanging_server_times_out(victoria_metrics, metrics):
    """A server that accepts the connection and reads nothing fails the export, in both protocols."""
    influx = f"influx+http://{victoria_metrics.address}?db=app&timeout=0.2"
    graphite = f"graphite://{victoria_metrics.graphite}?timeout=0.2"
    victoria_metrics.suspend()
    answer = asyncio.run(metrics.export_metrics_async([influx, graphite]))
    assert answer == {influx: False, graphite: False}
    assert all("within 0.2 s" in reason for reason in metrics.export_failures.values())


# -- StatsD and Graphite beside the process --------------------------------------------------------------

SERIES = [
    ("a.b", {"c": "d"}),
    ("a", {"b.c": "d"}),
    ("a", {"b": "c", "d": ""}),
    ("a.b.c.d", {}),
    ("a b", {"c": "d/e"}),
    ("a/b", {"c": "d e"}),
    ("a_b", {"c": "d_e"}),
    ("A_b", {"c": "d:e|f@g#h,i"}),
    ("a..b", {"é": "日本"}),
    ("U__a", {"%2F": "a=b;c"}),
    ("commits.count", {"name": "~x"}),
]
"""Series that are alike if characters are replaced or left out."""


@pytest.mark.parametrize("tags", ["none", "graphite"])
def test_statsd_and_carbon_agree_with_the_process(statsd, carbon, tags):
    """Each series arrives under a path of its own that can be read back, through removals and expiry."""
    clock = ManualClock(datetime.now(UTC) - timedelta(seconds=1_200))
    store = Store(clock, expire_after=timedelta(seconds=100))
    system = MetricsSystem(collector=InMemoryCollector(store))
    chance, true = Random(1), Counter()
    urls = [f"statsd://{statsd.address}", f"graphite://{carbon.address}?tags={tags}"]

    def export_all():
        answer = asyncio.run(system.export_metrics_async(urls))
        assert answer == dict.fromkeys(urls, True), system.export_failures

    export_all()  # from now on, removed series are tracked
    bound = [system.collector.counter(name, tags) for name, tags in SERIES]
    for step in range(200):
        clock.advance(5)
        number = chance.randrange(len(SERIES))
        name, tags_of_series = SERIES[number]
        match chance.choice(["record", "record", "bound", "remove", "remove name", "export", "expire"]):
            case "record":
                system.collector.record_counter(name, 3, tags_of_series)
                true[number] += 3
            case "bound":
                bound[number].add(2)
                true[number] += 2
            case "remove":
                store.remove(name, tags_of_series)
            case "remove name":
                store.remove(name)
            case "export":
                export_all()
            case "expire":
                store.readings()
        system.collector.record_gauge(f"level.{step % 5}", step - 100, {"ä": "-"})
    with system.measure("a", tags={"b": "c"}):
        pass
    for number in range(0, len(SERIES), 2):
        bound[number].add()
        true[number] += 1
    clock.advance(1)
    export_all()

    def of(numbers, read=read_path):
        found = {read(path): value for path, value in numbers.items()}
        return {(name, tags): value for (name, tags, field), value in found.items() if field in ("", "value")}

    totals = {(SERIES[number][0], frozenset(SERIES[number][1].items())): n for number, n in true.items()}
    assert wait_for(lambda: of(statsd.counters), totals) == totals
    gauges = {
        (reading.name, frozenset(reading.tags.items())): reading.summary["last"]
        for reading in store.readings()
        if reading.metric_type is MetricType.GAUGE
    }
    assert of(statsd.gauges) == gauges
    assert statsd.bad_lines == 0
    assert statsd.counters["a.b=c.operations_successes"] == 1
    live = {
        (value.name, frozenset(value.tags.items())): value.value
        for value in system.aggregator.get_metrics_by_tag({})
        if value.metric_type in (MetricType.COUNTER, MetricType.GAUGE)
    }

    def in_carbon():
        found = of(carbon.series(), read_path if tags == "none" else partial(read_tagged, separator=";"))
        assert found.keys() <= totals.keys() | live.keys()
        return {series: value for series, value in found.items() if series in live}

    assert wait_for(in_carbon, live) == live


# -- the Pushgateway -------------------------------------------------------------------------------------


def test_nothing_is_lost_when_a_pushgateway_dies_in_the_middle(tmp_path, metrics):
    """The push fails without a response. The next one sends all totals."""
    (port,) = free_ports(socket.SOCK_STREAM, 1)
    address = f"127.0.0.1:{port}"
    command = [required("prometheus-pushgateway"), f"--web.listen-address={address}", "--persistence.file="]
    gateway = Receiver(command, tmp_path, lambda: request("GET", address, "/-/ready")[0] == 200)
    url = f"pushgateway+http://{address}?job=nightly&grouping=shard:3"
    with started(gateway):
        assert export(metrics, url)
        count(metrics)
        assert not export_while_killed(gateway, metrics, url)
        count(metrics)
        gateway.start()
        assert export(metrics, url)
        (group,) = json.loads(request("GET", address, "/api/v1/metrics")[1])["data"]
    assert group["labels"] == {"job": "nightly", "shard": "3"}
    values = [family["metrics"][0]["value"] for name, family in group.items() if name.startswith("orders")]
    assert values == ["3"] * 40
