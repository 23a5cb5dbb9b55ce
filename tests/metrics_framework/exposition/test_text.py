"""Prometheus text of any aggregator: a server reads exactly the recorded metrics."""

from __future__ import annotations

import math
import os
import re
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.exposition import text as text_module
from metrics_framework.exposition.families import ExpositionLog, replace_unreadable
from metrics_framework.exposition.names import Escaping, label_name, metric_name
from metrics_framework.exposition.text import to_prometheus
from metrics_framework.recording import Store
from metrics_framework.recording.buckets import default_bounds
from metrics_framework.values import MetricType, MetricUnit, MetricValue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
VALID_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
VALID_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


@pytest.fixture
def metrics(clock):
    """Return a system with a manual clock."""
    return MetricsSystem(clock=clock)


@pytest.fixture(autouse=True)
def log(monkeypatch):
    """Log each warning again in each test."""
    monkeypatch.setattr(text_module, "_VALUES_LOG", ExpositionLog())


def exposed(metrics) -> str:
    """Return the text that a server would scrape."""
    return metrics.aggregator.export_metrics("prometheus")


def samples(text: str) -> dict:
    """Return every sample in a text: name and labels to number."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def types(text: str) -> dict[str, str]:
    """Return the type of every family, by its name in the text."""
    found = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert len(dict(found)) == len(found), "a family is there twice"
    # A sample outside of its family would form its own family.
    assert [family.type for family in text_string_to_metric_families(text)] == [type_ for _, type_ in found]
    return dict(found)


def value(
    name="x", number=1, metric_type=MetricType.GAUGE, unit=MetricUnit.COUNT, tags=None, **metadata
) -> MetricValue:
    """Return a value as from a third-party adapter."""
    return MetricValue(name, number, metric_type, unit, NOON, tags or {}, metadata)


def buckets(name: str, numbers, bounds, **labels) -> dict:
    """Return the samples of a histogram of some numbers."""
    tags = labels.items()
    return {
        **{
            (f"{name}_bucket", *sorted((*tags, ("le", le)))): sum(number <= float(le) for number in numbers)
            for le in ["+Inf", *map(floatToGoString, bounds)]
        },
        (f"{name}_count", *tags): len(numbers),
        (f"{name}_sum", *tags): math.fsum(numbers),
    }


# -- types -------------------------------------------------------------------------------------------------


def test_no_values_give_an_empty_text():
    """An empty text is valid."""
    assert to_prometheus([]) == ""
    assert InMemoryAggregator().export_metrics("prometheus") == ""


@pytest.mark.smoke
def test_the_text_of_a_counter(metrics):
    """The text follows format 0.0.4, line by line."""
    metrics.collector.describe("http.requests", help="Requests so far.")
    metrics.collector.record_counter("http.requests", 3, {"endpoint": "/", "code": "200"})
    assert exposed(metrics) == (
        "# HELP http_requests_total Requests so far.\n"
        "# TYPE http_requests_total counter\n"
        'http_requests_total{code="200",endpoint="/"} 3\n'
    )


def test_counters_end_in_total(metrics):
    """The suffix `_total` is added once, whether or not the recorded name has it."""
    metrics.collector.record_counter("hits", 2)
    metrics.collector.record_counter("hits", 0.5, {"page": "a"})
    metrics.collector.record_counter("misses_total", 7)
    metrics.collector.record_counter("late.total", 1)
    text = exposed(metrics)
    assert samples(text) == {
        ("hits_total",): 2,
        ("hits_total", ("page", "a")): 0.5,
        ("misses_total",): 7,
        ("late_total",): 1,
    }
    assert set(types(text).values()) == {"counter"}


def test_gauges_keep_their_names(metrics):
    """A gauge is the last value of each series, with either sign."""
    metrics.collector.record_gauge("queue.length", 9)
    metrics.collector.record_gauge("queue.length", -2.5)
    metrics.collector.record_gauge("queue.length", 4, {"queue": "slow"})
    text = exposed(metrics)
    assert samples(text) == {("queue_length",): -2.5, ("queue_length", ("queue", "slow")): 4}
    assert types(text) == {"queue_length": "gauge"}


@pytest.mark.parametrize(
    ("name", "numbers"), [("payload", range(1, 101)), ("payload.bytes", [65, 70_000, 2**40])]
)
def test_a_histogram_has_the_default_bounds_of_its_unit(metrics, name, numbers):
    """It is exposed as a histogram from the first record on, with counts of all records."""
    for number in numbers:
        metrics.collector.record_histogram(name, number)
    exposed_name = name.replace(".", "_")
    assert types(exposed(metrics)) == {exposed_name: "histogram"}
    assert samples(exposed(metrics)) == buckets(exposed_name, numbers, default_bounds(None, name))


def test_a_timer_is_a_histogram_in_seconds(metrics):
    """Recorded milliseconds are exposed in the base unit, and counts are unchanged."""
    for milliseconds in (250.0, 250.0, 1000.0):
        metrics.collector.record_timer("db.query", milliseconds, tags={"table": "users"})
    text = exposed(metrics)
    bounds = default_bounds(MetricUnit.SECONDS)
    assert samples(text) == buckets("db_query_seconds", (0.25, 0.25, 1), bounds, table="users")
    assert types(text) == {"db_query_seconds": "histogram"}


def test_a_described_histogram_has_its_bounds(metrics):
    """Each bucket counts exactly the values up to its bound. A sum that can fall is left out."""
    metrics.collector.describe("payload", buckets=[1, 2.5, 10])
    for number in (-1, 1, 1.0000001, 2.5, 2.5, 10, 11, 1000):
        metrics.collector.record_histogram("payload", number)
    text = exposed(metrics)
    assert samples(text) == {
        ("payload_bucket", ("le", "1.0")): 2,
        ("payload_bucket", ("le", "2.5")): 5,
        ("payload_bucket", ("le", "10.0")): 6,
        ("payload_bucket", ("le", "+Inf")): 8,
        ("payload_count",): 8,
    }
    assert types(text) == {"payload": "histogram"}
    bounds = re.findall(r'le="([^"]+)"', text)
    assert bounds == ["1.0", "2.5", "10.0", "+Inf"]


def test_a_described_timer_has_its_bounds_in_seconds(metrics):
    """The bounds of a timer are recorded in milliseconds and exposed in seconds."""
    metrics.collector.describe("db.query", buckets=[5, 250, 1000], help="Queries.")
    for milliseconds in (5, 6, 250.0, 4000):
        metrics.collector.record_timer("db.query", milliseconds, tags={"table": "users"})
    metrics.collector.record_timer("db.query", 1, MetricUnit.SECONDS)
    text = exposed(metrics)
    users = ("table", "users")
    assert samples(text) == {
        ("db_query_seconds_bucket", ("le", "0.005"), users): 1,
        ("db_query_seconds_bucket", ("le", "0.25"), users): 3,
        ("db_query_seconds_bucket", ("le", "1.0"), users): 3,
        ("db_query_seconds_bucket", ("le", "+Inf"), users): 4,
        ("db_query_seconds_sum", users): 4.261,
        ("db_query_seconds_count", users): 4,
        ("db_query_seconds_bucket", ("le", "0.005")): 0,
        ("db_query_seconds_bucket", ("le", "0.25")): 0,
        ("db_query_seconds_bucket", ("le", "1.0")): 1,
        ("db_query_seconds_bucket", ("le", "+Inf")): 1,
        ("db_query_seconds_sum",): 1.0,
        ("db_query_seconds_count",): 1,
    }
    assert types(text) == {"db_query_seconds": "histogram"}


def test_late_buckets_count_earlier_values_too(metrics):
    """Count, sum and buckets agree even if the description follows the first records."""
    metrics.collector.record_histogram("payload", 5)
    metrics.collector.describe("payload", buckets=[10])
    metrics.collector.record_histogram("payload", 7)
    metrics.collector.record_histogram("payload", 70)
    assert samples(exposed(metrics)) == {
        ("payload_bucket", ("le", "10.0")): 2,
        ("payload_bucket", ("le", "+Inf")): 3,
        ("payload_sum",): 82,
        ("payload_count",): 3,
    }


@settings(max_examples=40)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_buckets_are_cumulative_and_exact(numbers, bounds):
    """For any records, each bucket counts exactly the values up to its bound."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.describe("payload", buckets=bounds)
    for number in numbers:
        collector.record_histogram("payload", number)
    text = InMemoryAggregator(collector.store).export_metrics("prometheus")
    (family,) = text_string_to_metric_families(text)
    buckets = [(float(s.labels["le"]), s.value) for s in family.samples if s.name == "payload_bucket"]
    expected = [(bound, sum(number <= bound for number in numbers)) for bound in (*bounds, math.inf)]
    assert buckets == expected
    found = samples(text)
    assert found["payload_count",] == len(numbers)
    total = None if min(*numbers, *bounds) < 0 else pytest.approx(math.fsum(numbers), abs=1e-6)
    assert found.get(("payload_sum",)) == total


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c.d"]),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1),
        min_size=1,
    )
)
def test_numbers_are_read_back_exactly(numbers):
    """No digit is lost, of a float or of an integer of up to 64 bits."""
    collector = InMemoryCollector(Store(ManualClock()))
    for tag, number in numbers.items():
        collector.record_gauge("level", number, {"tag": tag})
    text = InMemoryAggregator(collector.store).export_metrics("prometheus")
    assert samples(text) == {("level", ("tag", tag)): number for tag, number in numbers.items()}


# -- operations --------------------------------------------------------------------------------------------


def test_operations_have_durations_and_outcomes(metrics, clock):
    """An operation is a histogram of seconds and a counter by outcome and error type."""
    for error_type in (None, None, None, "timeout", "timeout", "refused"):
        with metrics.measure("git.push", {"remote": "origin"}) as push:
            clock.advance(0.5)
            push.error_type = error_type
    text = exposed(metrics)
    found, origin = samples(text), ("remote", "origin")
    assert types(text) == {"git_push_duration_seconds": "histogram", "git_push_operations_total": "counter"}
    assert {key: number for key, number in found.items() if key[0] == "git_push_operations_total"} == {
        ("git_push_operations_total", ("error_type", ""), ("outcome", "success"), origin): 3,
        ("git_push_operations_total", ("error_type", ""), ("outcome", "failure"), origin): 0,
        ("git_push_operations_total", ("error_type", "timeout"), ("outcome", "failure"), origin): 2,
        ("git_push_operations_total", ("error_type", "refused"), ("outcome", "failure"), origin): 1,
    }
    bounds = default_bounds(MetricUnit.SECONDS)
    assert {key: number for key, number in found.items() if key[0] != "git_push_operations_total"} == buckets(
        "git_push_duration_seconds", [0.5] * 6, bounds, remote="origin"
    )


def test_every_family_has_a_help_text(metrics):
    """It is that of the description, or names the metric as it was recorded and its base unit."""
    metrics.collector.describe("cache.size", unit=MetricUnit.KILOBYTES)
    metrics.collector.describe("described", help="Jobs so far.")
    metrics.collector.record_gauge("cache.size", 1)
    metrics.collector.increment("described")
    metrics.collector.increment("http.requests")
    metrics.collector.record_timer("wait", 1)
    with metrics.measure("git.push"):
        pass
    assert re.findall("# HELP (.*)", exposed(metrics)) == [
        "cache_size_bytes Gauge 'cache.size' in bytes.",
        "described_total Jobs so far.",
        "http_requests_total Counter 'http.requests'.",
        "wait_seconds Timer 'wait' in seconds.",
        "git_push_duration_seconds Duration of operation 'git.push' in seconds.",
        "git_push_operations_total Outcomes of operation 'git.push'.",
    ]


def test_an_operation_without_successes_exposes_zero(metrics):
    """Successes are exposed from the first failure on, so that a ratio can be computed."""
    metrics.tracker.record_failure("push", 'no "route"\n\\')
    assert samples(exposed(metrics)) == {
        ("push_operations_total", ("error_type", ""), ("outcome", "success")): 0,
        ("push_operations_total", ("error_type", ""), ("outcome", "failure")): 0,
        ("push_operations_total", ("error_type", 'no "route"\n\\'), ("outcome", "failure")): 1,
    }


def test_an_operation_and_a_metric_may_have_the_same_name(metrics, clock):
    """A timer and an operation of one name are both exposed."""
    metrics.collector.record_timer("push", 1000.0)
    metrics.timer.time_operation("push", lambda: clock.advance(2))
    found = samples(exposed(metrics))
    assert found["push_seconds_sum",] == 1.0
    assert found["push_duration_seconds_sum",] == 2.0


def test_rates_of_counters_are_not_exposed(metrics, clock):
    """A server computes them from the counter."""
    metrics.collector.record_counter("hits", 4)
    clock.advance(2)
    rates = metrics.aggregator.get_top_metrics(MetricType.RATE)
    assert [rate.name for rate in rates] == ["hits"]
    assert to_prometheus(rates) == ""


# -- names and units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "number", "name", "read"),
    [
        (MetricUnit.SECONDS, 2.5, "x_seconds", 2.5),
        (MetricUnit.MILLISECONDS, 250, "x_seconds", 0.25),
        (MetricUnit.MICROSECONDS, 250, "x_seconds", 0.00025),
        (MetricUnit.BYTES, 12, "x_bytes", 12),
        (MetricUnit.KILOBYTES, 12, "x_bytes", 12_000),
        (MetricUnit.MEGABYTES, 1.5, "x_bytes", 1_500_000),
        (MetricUnit.PERCENT, 99.5, "x_percent", 99.5),
        (MetricUnit.COUNT, 3, "x", 3),
        (MetricUnit.OPERATIONS_PER_SECOND, 3, "x", 3),
    ],
)
def test_units_are_base_units(metrics, unit, number, name, read):
    """For every type, the suffix is the base unit of Prometheus, whatever the recorded unit."""
    metrics.collector.describe("x", unit=unit)
    metrics.collector.record_gauge("x", number)
    assert samples(exposed(metrics)) == {(name,): pytest.approx(read)}
    assert samples(to_prometheus([value("x", number, MetricType.COUNTER, unit)])) == {
        (f"{name}_total",): pytest.approx(read)
    }
    summary = value("x", number, MetricType.HISTOGRAM, unit, sum=number, count=1, p50=number)
    assert samples(to_prometheus([summary])) == {
        (f"{name}_bucket", ("le", "+Inf")): 1,
        (f"{name}_sum",): pytest.approx(read),
        (f"{name}_count",): 1,
    }
    buckets = {"counts": {str(float(number)): 1, "inf": 2}, "sum": number * 3}
    text = to_prometheus([value("x", number, MetricType.HISTOGRAM, unit, buckets=buckets)])
    found = {key[0]: number for key, number in samples(text).items() if "_bucket" not in key[0]}
    assert found == {f"{name}_sum": pytest.approx(read * 3), f"{name}_count": 2}
    assert [float(bound) for bound in re.findall('le="(.*?)"', text)] == [pytest.approx(read), math.inf]


@pytest.mark.parametrize(
    ("name", "unit", "counter", "exposed_as"),
    [
        ("http.requests", MetricUnit.COUNT, True, "http_requests_total"),
        ("http.requests.total", MetricUnit.COUNT, True, "http_requests_total"),
        ("sent_bytes", MetricUnit.BYTES, True, "sent_bytes_total"),
        ("sent_bytes_total", MetricUnit.BYTES, True, "sent_bytes_total"),
        ("sent.total", MetricUnit.KILOBYTES, True, "sent_bytes_total"),
        ("load_seconds", MetricUnit.MILLISECONDS, False, "load_seconds"),
        ("milliseconds", MetricUnit.MILLISECONDS, False, "milliseconds_seconds"),
        ("items_total", MetricUnit.COUNT, False, "items_total"),
        ("a..b--c__d", MetricUnit.COUNT, False, "a_b_c_d"),
        ("a:b", MetricUnit.COUNT, False, "a:b"),
        ("99th", MetricUnit.COUNT, False, "_99th"),
        ("größe", MetricUnit.COUNT, False, "U__gr_f6__df_e"),
        ("²", MetricUnit.COUNT, False, "U___b2_"),
        ("٣x", MetricUnit.COUNT, False, "U___663_x"),
        ("café.size", MetricUnit.BYTES, True, "U__caf_e9___size__bytes__total"),
        ("请求数", MetricUnit.COUNT, True, "U___8bf7__6c42__6570___total"),
        ("\udce9", MetricUnit.COUNT, False, "_"),
        ("U__e9_", MetricUnit.COUNT, False, "U_e9"),
        ("x!", MetricUnit.COUNT, True, "x_total"),
        (";total", MetricUnit.COUNT, True, "__total"),
        ("a\nb{c}", MetricUnit.COUNT, False, "a_b_c"),
    ],
)
def test_names_follow_the_rules_of_opentelemetry(name, unit, counter, exposed_as):
    """Invalid characters become underscores, and suffixes occur once."""
    assert metric_name(name, unit, counter=counter) == exposed_as


@given(st.text(min_size=1), st.sampled_from(MetricUnit), st.booleans())
def test_every_name_becomes_a_valid_one(name, unit, counter):
    """Any text becomes a valid name with its suffixes."""
    made = metric_name(name, unit, counter=counter)
    assert VALID_NAME.fullmatch(made)
    assert made.endswith("_total") or not counter


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("endpoint", "endpoint"),
        ("http.method", "http_method"),
        ("9lives", "key_9lives"),
        ("__name__", "key_name__"),
        ("__", "key_"),
        ("_private", "_private"),
        ("größe", "U__gr_f6__df_e"),
        ("路由", "U___8def__7531_"),
        ("__ä", "U__key___e4_"),
        ("\udce9", "_"),
        ("U__e4_", "key_U__e4_"),
        ("a b\n", "a_b_"),
        ("a:b", "a_b"),
    ],
)
def test_tag_names_become_valid_labels(tag, label):
    """The name of a tag becomes a label that Prometheus does not reserve."""
    assert label_name(tag) == label


@given(st.text(min_size=1))
def test_every_tag_becomes_a_valid_label(tag):
    """Any text becomes a valid label that Prometheus does not reserve."""
    assert VALID_LABEL.fullmatch(label_name(tag))
    made = label_name(tag, Escaping.ALLOW_UTF_8)
    assert label_name(made, Escaping.ALLOW_UTF_8) == made


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(MetricUnit), st.booleans())
def test_escaping_keeps_different_names_different(one, other, unit, counter):
    """Two names or labels are equal for an old scraper only if they are for one that accepts UTF-8."""
    for name_of in (partial(metric_name, unit=unit, counter=counter), label_name):
        escaped, unescaped = (
            name_of(one, escaping=escaping) == name_of(other, escaping=escaping)
            for escaping in (Escaping.VALUES, Escaping.ALLOW_UTF_8)
        )
        assert escaped == unescaped


@given(st.text(min_size=1).filter(lambda name: not name.isascii()))
def test_escaping_is_that_of_prometheus_client(name):
    """Names outside the classic character set are escaped as Prometheus specifies the scheme `values`."""
    unescaped = metric_name(name, escaping=Escaping.ALLOW_UTF_8)
    assert metric_name(name) == escape_metric_name(unescaped, "values")
    unescaped = label_name(name, Escaping.ALLOW_UTF_8)
    assert label_name(name) == escape_label_name(unescaped, "values")


def test_an_empty_label_counts_as_missing(caplog):
    """A server cannot distinguish an empty tag from a missing one, so only the first series is exposed."""
    values = [
        value("level", 1, tags={"place": ""}),
        value("level", 2),
        value("level", 3, tags={"x": "", "y": "z"}),
    ]
    text = to_prometheus(values)
    assert samples(text) == {("level", ("place", "")): 1, ("level", ("x", ""), ("y", "z")): 3}
    assert "another one has its labels" in caplog.text


def test_characters_that_utf8_cannot_encode_are_replaced(metrics):
    """Surrogates from a file name that is not UTF-8 become U+FFFD, in a value and in a help text."""
    name = os.fsdecode(b"caf\xe9")
    metrics.collector.describe("size", help=name)
    metrics.collector.record_gauge("size", 1, {"file": name, name: "x"})
    metrics.collector.record_gauge("size", 2, {"file": r"caf\udce9", name: "x"})
    metrics.tracker.record_failure("read", name)
    text = exposed(metrics).encode().decode()
    assert "# HELP size caf\ufffd\n" in text
    found = samples(text)
    assert found["size", ("caf_", "x"), ("file", "caf\ufffd")] == 1
    assert found["size", ("caf_", "x"), ("file", r"caf\udce9")] == 2
    assert found["read_operations_total", ("error_type", "caf\ufffd"), ("outcome", "failure")] == 1


def test_tags_that_become_one_label_share_it(metrics):
    """No value is lost: two tags of a series with the same label are joined by a semicolon."""
    metrics.collector.record_gauge("x", 1, {"a.b": "one", "a-b": "two", "c": "three", "a_b": "four"})
    assert samples(exposed(metrics)) == {("x", ("a_b", "two;one;four"), ("c", "three")): 1}


# -- name conflicts ----------------------------------------------------------------------------------------


def test_conflicting_names_are_not_mixed(metrics, caplog):
    """The first keeps the name, the other is left out, and one warning names both."""
    metrics.collector.record_gauge("a.b", 1)
    metrics.collector.record_gauge("a_b", 2)
    metrics.collector.record_gauge("a_b", 3, {"t": "1"})
    metrics.collector.record_gauge("c", 4)
    for text in (exposed(metrics), exposed(metrics)):
        assert samples(text) == {("a_b",): 1, ("c",): 4}
    (record,) = caplog.records
    assert "its name is taken" in record.message
    assert "metric=\"'a_b'\"" in record.message
    assert "owner=\"'a.b'\"" in record.message


@pytest.mark.parametrize(
    ("first", "second", "exposed_as"),
    [
        (value("x", 1, MetricType.COUNTER), value("x_total", 2), "x_total"),
        (value("x", 1, MetricType.COUNTER), value("x.total", 2, MetricType.COUNTER), "x_total"),
        (value("x", 1, unit=MetricUnit.BYTES), value("x_bytes", 2), "x_bytes"),
        (value("x", 1, unit=MetricUnit.BYTES), value("x.bytes", 2, unit=MetricUnit.BYTES), "x_bytes"),
    ],
)
def test_suffixes_may_make_names_conflict(first, second, exposed_as):
    """Names that are equal only because of a suffix are not mixed, in either order."""
    for kept, other in ((first, second), (second, first)):
        text = to_prometheus([kept, other])
        assert samples(text) == {(exposed_as,): kept.value}
        assert len(types(text)) == 1


def test_an_operation_that_has_the_name_of_a_metric_is_left_out(metrics, clock, caplog):
    """The warning says "operation", because a metric may have the same name."""
    metrics.collector.record_timer("push.duration", 1000.0)
    metrics.collector.record_counter("push.operations", 5)
    with metrics.measure("push"):
        clock.advance(2)
    text = exposed(metrics)
    found = samples(text)
    assert found["push_duration_seconds_sum",] == 1.0
    assert found["push_operations_total",] == 5
    assert "operation 'push'" in caplog.text
    assert "'push.operations'" in caplog.text
    assert len(types(text)) == 2


def test_a_name_with_two_types_is_not_mixed():
    """If an adapter has two types under one name, the first is exposed."""
    text = to_prometheus([value("x", 1), value("x", 2, MetricType.HISTOGRAM, sum=1, count=1)])
    assert samples(text) == {("x",): 1}


def test_families_are_contiguous():
    """The series of one metric are together, in whatever order an adapter lists them."""
    values = [value("a", 1), value("b", 2), value("a", 3, tags={"t": "1"}), value("b", 4, tags={"t": "1"})]
    text = to_prometheus(iter(values))
    assert types(text) == {"a": "gauge", "b": "gauge"}
    assert list(samples(text).values()) == [1, 3, 2, 4]


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["counter", "gauge"])), min_size=1, max_size=8)
)
def test_any_names_make_a_valid_exposition(names):
    """Each name is exposed with its own number or left out, and no line is broken by it."""
    collector = InMemoryCollector(Store(ManualClock()))
    kinds = {}
    for name, kind in names:
        kinds.setdefault(name, kind)
    for number, (name, kind) in enumerate(kinds.items()):
        (collector.record_counter if kind == "counter" else collector.record_gauge)(name, number)
    text = InMemoryAggregator(collector.store).export_metrics("prometheus")
    expected, taken = {}, set()
    for number, (name, kind) in enumerate(kinds.items()):
        names = [metric_name(name.replace(":", "_"), counter=kind == "counter")]
        if kind == "counter":
            names += [names[0].removesuffix("_total"), names[0].removesuffix("total") + "created"]
        if taken.isdisjoint(names):
            taken.update(names)
            expected[(names[0],)] = number
    assert samples(text) == expected
    assert text.count("\n") == 3 * len(expected)


# -- text --------------------------------------------------------------------------------------------------


def test_label_values_and_help_are_escaped(metrics):
    """Backslashes, line breaks and, in labels, quotes are escaped."""
    metrics.collector.describe("x", help='a "quoted"\nline \\n')
    metrics.collector.record_gauge("x", 1, {"t": 'a "quoted"\nline \\n'})
    assert exposed(metrics) == (
        '# HELP x a "quoted"\\nline \\\\n\n# TYPE x gauge\nx{t="a \\"quoted\\"\\nline \\\\n"} 1\n'
    )


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]), st.text(st.characters(codec="utf-8", exclude_characters="\0"))
    )
)
def test_any_label_value_is_read_back(tags):
    """A server reads any tag value unchanged."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.record_gauge("x", 7, tags)
    text = InMemoryAggregator(collector.store).export_metrics("prometheus")
    assert samples(text) == {("x", *sorted(tags.items())): 7}


@given(st.text(min_size=1))
def test_any_help_is_read_back(help_text):
    """Any description is written as one line, which a server reads unchanged."""
    help_text = help_text.replace("\0", "\ufffd")  # it cannot be sent
    collector = InMemoryCollector(Store(ManualClock()))
    collector.describe("x", help=help_text)
    collector.record_gauge("x", 7, {"t": "1"})
    text = InMemoryAggregator(collector.store).export_metrics("prometheus")
    lines = text.split("\n")
    assert lines[1:] == ["# TYPE x gauge", 'x{t="1"} 7', ""]
    line = lines[0].removeprefix("# HELP x ")
    assert re.sub(r"\\(.)", lambda match: {"n": "\n", "\\": "\\"}[match[1]], line) == help_text
    (family,) = text_string_to_metric_families(text)
    assert family.documentation.strip() == help_text.strip()  # the parser strips lines
    assert samples(text) == {("x", ("t", "1")): 7}


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_any_tags_make_a_valid_exposition(tags):
    """For any tag names, no value is lost and no label occurs twice."""
    collector = InMemoryCollector(Store(ManualClock()))
    collector.record_counter("x", 7, tags)
    ((key, number),) = samples(InMemoryAggregator(collector.store).export_metrics("prometheus")).items()
    expected = {}
    for tag, text in sorted(tags.items()):
        expected.setdefault(label_name(tag), []).append(text)
    assert number == 7
    assert key == (
        "x_total",
        *sorted((label, replace_unreadable(";".join(texts))) for label, texts in expected.items()),
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
        (-3, "-3"),
        (-0.5, "-0.5"),
        (0, "0"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (2**63, "9223372036854775808"),
    ],
)
def test_special_numbers_follow_the_format(number, text):
    """NaN, infinite, negative, tiny and huge numbers are written as Prometheus reads them."""
    line = to_prometheus([value("x", number)]).splitlines()[-1]
    assert line == f"x {text}"
    (found,) = samples(line).values()
    assert found == number or (math.isnan(found) and math.isnan(number))


def test_infinite_numbers_stay_infinite_in_another_unit():
    """An infinite number or NaN is converted without an error."""
    values = [
        value("a", math.inf, unit=MetricUnit.MEGABYTES),
        value("b", -math.inf, unit=MetricUnit.MILLISECONDS),
        value("c", 1.7e308, unit=MetricUnit.MEGABYTES),
    ]
    assert samples(to_prometheus(values)) == {
        ("a_bytes",): math.inf,
        ("b_seconds",): -math.inf,
        ("c_bytes",): math.inf,
    }


def test_unknown_sums_and_counts_are_left_out():
    """An adapter may know only the count of a distribution, or only its buckets, or neither."""
    counted = value("x", 2, MetricType.HISTOGRAM, count=3, p50=2)
    uncounted = value("y", 2, MetricType.HISTOGRAM, sum=6, p50=2)
    histogram = value("z", 2, MetricType.HISTOGRAM, count=3, buckets={"counts": {"1.0": 1, "inf": 3}})
    negative = value("n", 2, MetricType.TIMER, sum=6, min=-1, count=3)
    text = to_prometheus([counted, uncounted, histogram, negative])
    assert samples(text) == {
        ("x_bucket", ("le", "+Inf")): 3,
        ("x_count",): 3,
        ("z_bucket", ("le", "1.0")): 1,
        ("z_bucket", ("le", "+Inf")): 3,
        ("z_count",): 3,
        ("n_seconds_bucket", ("le", "+Inf")): 3,
        ("n_seconds_count",): 3,
    }


def test_outcomes_without_error_types():
    """The contract requires only count and success rate: the failures then have no error type."""
    outcomes = value("push", 1, MetricType.RATE, operation=True, count=4, success_rate=0.75)
    assert samples(to_prometheus([outcomes])) == {
        ("push_operations_total", ("error_type", ""), ("outcome", "success")): 3,
        ("push_operations_total", ("error_type", ""), ("outcome", "failure")): 1,
    }


OWN_LABELS = ("le", "outcome", "error_type")


def test_tags_with_the_name_of_a_reserved_label_are_renamed(metrics, clock):
    """They are renamed only for types that have this label."""
    metrics.collector.describe("bounded", buckets=(1, 2))
    for text in ("one", "two"):
        tags = dict.fromkeys(OWN_LABELS, text)
        metrics.collector.record_gauge("level", 1, tags)
        metrics.collector.record_histogram("bounded", 1.5, tags)
        with metrics.measure("work", tags) as work:
            clock.advance(1)
        with metrics.measure("work", tags) as work:
            work.error_type = "bad"
    found = samples(exposed(metrics))

    def labels(text, *own, **others):
        names = {name: f"exported_{name}" if name in own else name for name in OWN_LABELS}
        return sorted({**{names[name]: text for name in OWN_LABELS}, **others}.items())

    for text in ("one", "two"):
        assert found["level", *labels(text)] == 1
        assert found["bounded_bucket", *labels(text, "le", le="2.0")] == 1
        ended = ("outcome", "error_type")
        assert found["work_operations_total", *labels(text, *ended, outcome="failure", error_type="bad")] == 1
        assert found["work_operations_total", *labels(text, *ended, outcome="success", error_type="")] == 1
        assert found["work_duration_seconds_count", *labels(text, "le")] == 2


@pytest.mark.parametrize("buckets", [(), (1, 2)])
def test_a_gauge_with_the_name_of_a_part_of_a_histogram_is_left_out(metrics, buckets):
    """A histogram has several names."""
    metrics.collector.describe("payload", buckets=buckets)
    metrics.collector.record_histogram("payload", 1.5)
    metrics.collector.record_gauge("payload.count", 70)
    metrics.collector.record_gauge("other", 4)
    text = exposed(metrics)
    found = samples(text)
    assert (found["payload_count",], found["other",]) == (1, 4)
    assert len(types(text)) == 2


def test_series_with_the_same_labels_are_not_mixed(metrics, caplog):
    """The second of two such series is left out, with a warning."""
    metrics.collector.record_gauge("x", 1, {"a.b": "same"})
    metrics.collector.record_gauge("x", 2, {"a_b": "same"})
    metrics.collector.record_gauge("x", 3, {"a_b": "another"})
    assert samples(exposed(metrics)) == {("x", ("a_b", "same")): 1, ("x", ("a_b", "another")): 3}
    assert "another one has its labels" in caplog.text


class _Loud(float):
    """A float of another library with its own `repr`."""

    def __repr__(self) -> str:
        return f"Loud({float(self)})"


def test_numbers_of_other_libraries_are_written_as_numbers():
    """A subclass of float with its own `repr` is written as a number."""
    assert to_prometheus([value("x", _Loud(2.5))]).splitlines()[-1] == "x 2.5"
    assert to_prometheus([value("x", _Loud("inf"))]).splitlines()[-1] == "x +Inf"
