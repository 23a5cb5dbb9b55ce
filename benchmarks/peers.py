"""The measured libraries: a setup and one statement for each action, written as their documentation does.

The statements run inside a loop of the benchmark, as with `timeit`, so that no wrapper is measured. In a
statement ``tags`` is a dict with the keys of `TAGS`, ``value`` is a float, and ``name`` is an element of
``names``, which the setup defines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

TAGS = {"method": "GET", "status": "200"}

OURS = "metrics_framework"
PURE = "metrics_framework (pure)"
BASE = "prometheus_client"
"""The library that ratios refer to."""


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        package: Its distribution, for the version.
        setup: Runs once. It may define ``settle()``, which does all deferred work and is timed, and
            ``next_second()``, which moves an injected clock.
        statements: Action to statement, without the actions that the library has no call for.
        setups: Action to the setup that only its statement needs.
        steady_after: How many values a histogram must hold before further values cost what they cost from
            then on.
        environment: Environment variables of its process.
    """

    package: str
    setup: str
    statements: Mapping[str, str]
    setups: Mapping[str, str] = field(default_factory=dict)
    steady_after: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


_OUR_SETUP = """
import os

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer
from metrics_framework import MetricsSystem
from metrics_framework.recording import Budgets, Store

# The peers have no budgets, so ours must not save anything here.
budgets = Budgets(series_per_name=1_000_000, series=1_000_000, names=10_000)
store = Store(budgets=budgets)
if not store.is_compiled and not os.environ.get("METRICS_FRAMEWORK_PURE"):
    raise RuntimeError("the compiled engine is not built")
collector = InMemoryCollector(store)
timers = InMemoryTimer(store)
metrics = MetricsSystem(collector=collector)
counter = collector.counter("bound.counter", TAGS)
gauge = collector.gauge("bound.gauge", TAGS)
histogram = collector.histogram("bound.histogram", TAGS)
timer = collector.timer("bound.timer")
collector.record_gauge("level", 0, TAGS)

def work():
    pass

def settle():
    store.recorded
"""

_OUR_STATEMENTS = {
    "counter": 'collector.record_counter("requests", 1, {"method": "GET", "status": "200"})',
    "counter by position": 'collector.record_counter("requests", 1, {"method": "GET", "status": "200"})',
    "counter of tags": 'collector.record_counter("requests", 1, tags)',
    "counter without tags": 'collector.record_counter("jobs", 1)',
    "gauge": 'collector.record_gauge("load", 1.5, {"method": "GET", "status": "200"})',
    "gauge value": 'collector.record_gauge("load", value, {"method": "GET", "status": "200"})',
    "gauge of tags": 'collector.record_gauge("load", 1.5, tags)',
    "gauge without tags": 'collector.record_gauge("temperature", 1.5)',
    "gauge step": 'collector.increment("level", {"method": "GET", "status": "200"})',
    "histogram": 'collector.record_histogram("size", value, {"method": "GET", "status": "200"})',
    "histogram of tags": 'collector.record_histogram("size", value, tags)',
    "histogram without tags": 'collector.record_histogram("weight", value)',
    "timer": 'collector.record_timer("latency", value, tags={"method": "GET", "status": "200"})',
    "timer of tags": 'collector.record_timer("latency", value, tags=tags)',
    "bound counter": "counter.add()",
    "bound gauge": "gauge.set(1.5)",
    "bound gauge value": "gauge.set(value)",
    "bound histogram": "histogram.observe(value)",
    "bound timer": "with timer.time():\n    pass",
    "timer by id": 'timers.stop_timer(timers.start_timer("checkout"))',
    "timed function": 'timers.time_operation("checkout", work)',
    "measure": 'with metrics.measure("checkout", {"method": "GET", "status": "200"}):\n    pass',
    "counter of names": 'collector.record_counter(name, 1, {"method": "GET", "status": "200"})',
    "histogram of names": 'collector.record_histogram(name, 1.5, {"method": "GET", "status": "200"})',
    "read": 'store.summary("size")',
}

_OUR_CLOCK = """
import functools, time, types

now = [10**12]
clock = types.SimpleNamespace(
    monotonic_ns=functools.partial(now.__getitem__, 0),  # no Python code runs in a reading
    time_ns=time.time_ns,
)
store = Store(clock, budgets=budgets)
collector = InMemoryCollector(store)
names = [f"name.{number}" for number in range(2_000)]

def next_second():
    now[0] += 1_000_000_000
"""

_OUR_SETUPS = {"counter of names": _OUR_CLOCK, "histogram of names": _OUR_CLOCK}

_PROMETHEUS_CLIENT = Peer(
    "prometheus_client",
    """
from time import perf_counter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LABELS = list(TAGS)
registry = CollectorRegistry()
requests = Counter("requests", "help", LABELS, registry=registry)
jobs = Counter("jobs", "help", registry=registry)
load = Gauge("load", "help", LABELS, registry=registry)
temperature = Gauge("temperature", "help", registry=registry)
size = Histogram("size", "help", LABELS, registry=registry)
weight = Histogram("weight", "help", registry=registry)
checkout = Histogram("checkout", "help", registry=registry)
counter = requests.labels(**TAGS)
gauge = load.labels(**TAGS)
histogram = size.labels(**TAGS)

@checkout.time()
def timed():
    pass
""",
    {
        "counter": 'requests.labels(method="GET", status="200").inc()',
        "counter by position": 'requests.labels("GET", "200").inc()',
        "counter of tags": "requests.labels(**tags).inc()",
        "counter without tags": "jobs.inc()",
        "gauge": 'load.labels(method="GET", status="200").set(1.5)',
        "gauge value": 'load.labels(method="GET", status="200").set(value)',
        "gauge of tags": "load.labels(**tags).set(1.5)",
        "gauge without tags": "temperature.set(1.5)",
        "gauge step": 'load.labels(method="GET", status="200").inc()',
        "histogram": 'size.labels(method="GET", status="200").observe(value)',
        "histogram of tags": "size.labels(**tags).observe(value)",
        "histogram without tags": "weight.observe(value)",
        "timer": 'size.labels(method="GET", status="200").observe(value)',
        "timer of tags": "size.labels(**tags).observe(value)",
        "bound counter": "counter.inc()",
        "bound gauge": "gauge.set(1.5)",
        "bound gauge value": "gauge.set(value)",
        "bound histogram": "histogram.observe(value)",
        "bound timer": "with checkout.time():\n    pass",
        "timer by id": "with checkout.time():\n    pass",
        "timed function": "timed()",
        "measure": (
            'with size.labels(method="GET", status="200").time():\n    pass\n'
            'requests.labels(method="GET", status="200").inc()'
        ),
        "counter of names": 'name.labels(method="GET", status="200").inc()',
        "histogram of names": 'name.labels(method="GET", status="200").observe(1.5)',
        "read": "generate_latest(registry)",
    },
    {
        "counter of names": (
            'names = [Counter(f"n{number}", "help", LABELS, registry=registry) for number in range(2_000)]'
        ),
        "histogram of names": (
            'names = [Histogram(f"n{number}", "help", LABELS, registry=registry) for number in range(2_000)]'
        ),
    },
)

_OPENTELEMETRY = Peer(
    "opentelemetry-sdk",
    """
from time import perf_counter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

# Its limit of 2 000 series would put all others into one.
unlimited = View(instrument_name="*", aggregation_cardinality_limit=1_000_000)
meter = MeterProvider(metric_readers=[InMemoryMetricReader()], views=[unlimited]).get_meter("benchmark")
requests = meter.create_counter("requests")
load = meter.create_gauge("load")
level = meter.create_up_down_counter("level")
size = meter.create_histogram("size")
""",
    {
        "counter": 'requests.add(1, {"method": "GET", "status": "200"})',
        "counter of tags": "requests.add(1, tags)",
        "counter without tags": "requests.add(1)",
        "gauge": 'load.set(1.5, {"method": "GET", "status": "200"})',
        "gauge value": 'load.set(value, {"method": "GET", "status": "200"})',
        "gauge of tags": "load.set(1.5, tags)",
        "gauge without tags": "load.set(1.5)",
        "gauge step": 'level.add(1, {"method": "GET", "status": "200"})',
        "histogram": 'size.record(value, {"method": "GET", "status": "200"})',
        "histogram of tags": "size.record(value, tags)",
        "histogram without tags": "size.record(value)",
        "timer": 'size.record(value, {"method": "GET", "status": "200"})',
        "timer of tags": "size.record(value, tags)",
        "measure": (
            "begin = perf_counter()\n"
            'size.record(perf_counter() - begin, {"method": "GET", "status": "200"})\n'
            'requests.add(1, {"method": "GET", "status": "200"})'
        ),
        "counter of names": 'name.add(1, {"method": "GET", "status": "200"})',
        "histogram of names": 'name.record(1.5, {"method": "GET", "status": "200"})',
    },
    {
        "counter of names": 'names = [meter.create_counter(f"name_{number}") for number in range(2_000)]',
        "histogram of names": 'names = [meter.create_histogram(f"name_{number}") for number in range(2_000)]',
    },
)

_PYFORMANCE = Peer(
    "pyformance",
    """
from pyformance import MetricsRegistry

registry = MetricsRegistry()
counter = registry.counter("bound")
gauge = registry.gauge("bound")
histogram = registry.histogram("bound")
timer = registry.timer("bound")
names = [f"name.{number}" for number in range(2_000)]
""",
    {
        "counter": 'registry.counter("requests.GET.200").inc()',
        "counter of tags": "registry.counter(f\"requests.{tags['method']}.{tags['status']}\").inc()",
        "counter without tags": 'registry.counter("jobs").inc()',
        "gauge": 'registry.gauge("load.GET.200").set_value(1.5)',
        "gauge value": 'registry.gauge("load.GET.200").set_value(value)',
        "gauge of tags": "registry.gauge(f\"load.{tags['method']}.{tags['status']}\").set_value(1.5)",
        "gauge without tags": 'registry.gauge("temperature").set_value(1.5)',
        "histogram": 'registry.histogram("size.GET.200").add(value)',
        "histogram of tags": "registry.histogram(f\"size.{tags['method']}.{tags['status']}\").add(value)",
        "histogram without tags": 'registry.histogram("weight").add(value)',
        "bound counter": "counter.inc()",
        "bound gauge": "gauge.set_value(1.5)",
        "bound gauge value": "gauge.set_value(value)",
        "bound histogram": "histogram.add(value)",
        "bound timer": "with timer.time():\n    pass",
        "timer by id": 'registry.timer("checkout").time().stop()',
        "measure": (
            'with registry.timer("checkout.GET.200").time():\n    pass\n'
            'registry.counter("requests.GET.200").inc()'
        ),
        "counter of names": "registry.counter(name).inc()",
        "histogram of names": "registry.histogram(name).add(1.5)",
    },
)

_AIOPROMETHEUS = Peer(
    "aioprometheus",
    """
from time import perf_counter
from aioprometheus import Counter, Gauge, Histogram, Registry

registry = Registry()
requests = Counter("requests", "help", registry=registry)
load = Gauge("load", "help", registry=registry)
size = Histogram("size", "help", registry=registry)
""",
    {
        "counter": 'requests.inc({"method": "GET", "status": "200"})',
        "counter of tags": "requests.inc(tags)",
        "counter without tags": "requests.inc({})",
        "gauge": 'load.set({"method": "GET", "status": "200"}, 1.5)',
        "gauge value": 'load.set({"method": "GET", "status": "200"}, value)',
        "gauge of tags": "load.set(tags, 1.5)",
        "gauge without tags": "load.set({}, 1.5)",
        "gauge step": 'load.inc({"method": "GET", "status": "200"})',
        "histogram": 'size.observe({"method": "GET", "status": "200"}, value)',
        "histogram of tags": "size.observe(tags, value)",
        "histogram without tags": "size.observe({}, value)",
        "timer": 'size.observe({"method": "GET", "status": "200"}, value)',
        "timer of tags": "size.observe(tags, value)",
        "measure": (
            "begin = perf_counter()\n"
            'size.observe({"method": "GET", "status": "200"}, perf_counter() - begin)\n'
            'requests.inc({"method": "GET", "status": "200"})'
        ),
        "counter of names": 'name.inc({"method": "GET", "status": "200"})',
        "histogram of names": 'name.observe({"method": "GET", "status": "200"}, 1.5)',
    },
    {
        "counter of names": (
            'names = [Counter(f"name_{number}", "help", registry=registry) for number in range(2_000)]'
        ),
        "histogram of names": (
            'names = [Histogram(f"name_{number}", "help", registry=registry) for number in range(2_000)]'
        ),
    },
)

PEERS: dict[str, Peer] = {
    OURS: Peer("metrics-framework", _OUR_SETUP, _OUR_STATEMENTS, _OUR_SETUPS, steady_after=130),
    PURE: Peer(
        "metrics-framework",
        _OUR_SETUP,
        _OUR_STATEMENTS,
        _OUR_SETUPS,
        steady_after=130,
        environment={"METRICS_FRAMEWORK_PURE": "1"},
    ),
    BASE: _PROMETHEUS_CLIENT,
    "OpenTelemetry": _OPENTELEMETRY,
    "pyformance": _PYFORMANCE,
    "aioprometheus": _AIOPROMETHEUS,
}


def environment(peer: str) -> dict[str, str]:
    """Return the environment variables for a process of a library."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("METRICS_FRAMEWORK_")}
    return {**others, **(PEERS[peer].environment if peer in PEERS else {})}
