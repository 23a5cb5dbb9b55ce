"""Any names, tags and values produce valid lines and datagrams in each format."""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.line_protocols import numbers_of
from metrics_framework import MetricsSystem, MetricType, MetricUnit, MetricValue, OutputError
from metrics_framework.export.endpoints import make_endpoint
from tests.metrics_adapters.export.paths import FIELDS, READERS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NASTY = st.one_of(
    st.text(max_size=8),
    st.text(st.sampled_from('.,:;=|#@/\\ \n\r\t"\x00\x85\u2028é~!^_a1'), max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "Zl"]), max_size=4),
)
NUMBER = st.one_of(st.integers(), st.floats(), st.integers(10**300, 10**400), st.booleans(), st.none())


@st.composite
def metric_values(draw):
    """Return values of a third-party adapter."""
    keys = ("count", "sum", "p50", "p95", "success_rate", "operation", "successes")
    return MetricValue(
        draw(NASTY.filter(bool)),
        draw(NUMBER),
        draw(st.sampled_from(MetricType)),
        MetricUnit.COUNT,
        NOW,
        draw(st.dictionaries(NASTY.filter(bool), NASTY, max_size=3)),
        draw(st.dictionaries(st.sampled_from(keys), st.one_of(st.integers(-9, 9), st.floats()), max_size=5)),
    )


VALUES = st.lists(metric_values(), max_size=3)
GRAPHITE = re.compile(
    r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_=-]+)*(;[!-~]+=[!-~]+)* -?\d+(\.\d+)?(e[+-]\d+)? 1767225600\n", re.ASCII
)
STATSD = re.compile(
    r"[A-Za-z0-9_.=-]+(,[A-Za-z0-9_./-]+=[A-Za-z0-9_./-]+)*:-?\d+(\.\d+)?\|[cg](\|#[A-Za-z0-9_./:,-]+)?",
    re.ASCII,
)
NAME = r"(?:[^\x00-\x20\x7f\\,=]|\\[,= ])+"
INFLUX = re.compile(
    rf"(?![#_])(?:[^\x00-\x20\x7f\\,]|\\[, ])+(?:,{NAME}={NAME})* "
    r"[a-z0-9_]+=-?\d+(\.\d+)?(e[+-]\d+)?(,[a-z0-9_]+=-?\d+(\.\d+)?(e[+-]\d+)?)* 1767225600000000000\n"
)


def endpoint(url):
    """Return the endpoint of a URL."""
    return make_endpoint(url)[1]


@settings(max_examples=40)
@given(VALUES, st.sampled_from(["none", "graphite"]))
def test_every_line_of_graphite_is_valid(values, tags):
    """Each line is a path of safe characters, a number and a timestamp. No path appears twice."""
    lines = list(endpoint(f"graphite://h?tags={tags}").lines(values))
    assert all(GRAPHITE.fullmatch(line) for line in lines)
    paths = [line.split(" ")[0] for line in lines]
    assert all(path.count(";name=") == 0 for path in paths)


def test_a_negative_zero_is_sent_to_statsd_without_its_sign():
    """With a sign it would be a change of the gauge by zero."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    zero = MetricValue("load", -0.0, MetricType.GAUGE, MetricUnit.COUNT, now, {}, {})
    assert [line.text for line in endpoint("statsd://h").lines([zero])] == ["load:0|g"]


@settings(max_examples=40)
@given(VALUES, st.sampled_from(["none", "datadog", "influx"]), st.integers(100, 300))
def test_every_datagram_of_statsd_is_valid(values, tags, mtu):
    """Datagrams have limited size and lines of safe characters. A negative gauge follows a zero."""
    found = endpoint(f"statsd://h?tags={tags}&mtu={mtu}")
    for datagram in found.datagrams(found.lines(values)):
        text = "\n".join(line.text for line in datagram)
        assert len(text.encode("ascii")) <= mtu
        lines = text.split("\n")
        assert all(STATSD.fullmatch(line) for line in lines)
        for before, line in zip(["", *lines], lines, strict=False):
            if re.search(r":-[\d.]+\|g", line):
                assert before == re.sub(r":-[\d.]+\|", ":0|", line)


@settings(max_examples=40)
@given(VALUES)
def test_every_line_of_influx_is_valid(values):
    """Each line is a measurement, non-empty tags, numbers and a timestamp, and not a comment."""
    for line in endpoint("influx+http://h?db=x").lines(values):
        assert INFLUX.fullmatch(line), line
        line.encode()


@settings(max_examples=40)
@given(VALUES)
def test_every_number_is_finite_and_plain(values):
    """Values that no format supports are left out."""
    for value in values:
        assert all(type(number.value) in (int, float) for number in numbers_of(value))


def value(name, number, **tags):
    """Return a gauge."""
    return MetricValue(name, number, MetricType.GAUGE, MetricUnit.COUNT, NOW, tags, {})


@pytest.mark.parametrize("url", ["graphite://h", "statsd://h?tags=datadog", "influx+http://h?db=x"])
def test_of_two_values_of_one_series_the_first_is_sent(url, caplog):
    """An aggregator may have a series twice: the second one is left out, which is logged once."""
    found = endpoint(url)
    for _ in range(2):
        assert len(list(found.lines([value("a", 1, k="x"), value("a", 2, k="x")]))) == 1
    assert caplog.text.count("a series is left out of an export") == 1


# -- names that can be read back -----------------------------------------------------------------------------


TEXT = st.one_of(
    NASTY,
    st.lists(
        st.sampled_from(["a", "b", "A", ".", "_", "U__", "_2F_", "count", "value", "=", "operations_count"]),
        max_size=4,
    ).map("".join),
)
IDENTITY = st.tuples(
    TEXT.filter(bool),
    st.dictionaries(TEXT.filter(bool), TEXT, max_size=3),
    st.sampled_from(["counter", "histogram", "durations", "outcomes"]),
)
KINDS = {
    "counter": (MetricType.COUNTER, {}),
    "histogram": (MetricType.HISTOGRAM, {"count": 1, "sum": 1}),
    "durations": (MetricType.TIMER, {"count": 1, "operation": True}),
    "outcomes": (MetricType.RATE, {"count": 1, "success_rate": 1.0, "operation": True}),
}


@pytest.mark.parametrize("url", READERS)
@settings(max_examples=200)
@given(IDENTITY)
def test_name_tags_and_kind_can_be_read_back(url, identity):
    """Each line has them, whatever characters they consist of: two series never have the same path."""
    name, tags, kind = identity
    metric_type, metadata = KINDS[kind]
    sent = MetricValue(name, 1, metric_type, MetricUnit.COUNT, NOW, tags, metadata)
    lines = list(endpoint(url).lines([sent]))
    assert lines
    for line in lines:
        found_name, found_tags, field = READERS[url](line)
        assert (found_name, found_tags) == (name, tags.items())
        assert field in FIELDS[kind]


@pytest.mark.parametrize(
    ("name", "tags", "path"),
    [
        ("http.requests", {"route": "home", "method": "GET"}, "http.requests.method=GET.route=home"),
        ("http.requests", {"route": "/orders"}, "http.requests.route=U___2F_orders"),
        ("a", {"b.c": ""}, "a.U__b_2E_c="),
        ("commits.count", {}, "commits.count.value"),
        ("käse", {}, "U__k_E4_se"),
        ("a..b", {}, "a.U__.b"),
        ("U__x_y", {}, "U__U____x__y"),
    ],
)
def test_paths_are_readable(name, tags, path):
    """Letters, digits, underscores and dashes stay. Each tag is a part of the path."""
    (line,) = endpoint("graphite://h").lines([value(name, 1, **tags)])
    assert line.split(" ")[0] == path


def test_a_line_that_exceeds_a_datagram_is_left_out(caplog):
    """The others are sent, and it is logged once."""
    found = endpoint("statsd://h?mtu=100")
    datagrams = list(found.datagrams(found.lines([value("a" * 200, 1), value("b", 1)])))
    assert [[line.text for line in datagram] for datagram in datagrams] == [["b:1|g"]]
    assert "it is longer than 100 bytes" in caplog.text


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-7, "0.0000001"), (1e21, "1000000000000000000000"), (2.0, "2"), (10**20, "1" + "0" * 20)],
)
def test_statsd_has_no_exponents(number, text):
    """Some daemons cannot parse an exponent, or take its sign for that of a gauge."""
    assert [line.text for line in endpoint("statsd://h").lines([value("a", number)])] == [f"a:{text}|g"]


# -- increments ----------------------------------------------------------------------------------------------


@pytest.fixture
def daemon():
    """Return a socket that receives datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.settimeout(20)
        yield taken


def test_a_counter_is_sent_as_increments(daemon):
    """Increments add up to the total. An unchanged counter is not sent. A reset counter starts at zero."""
    found = endpoint(f"statsd://127.0.0.1:{daemon.getsockname()[1]}")
    system = MetricsSystem()
    for added, sent in ((5, b"orders:5|c"), (2, b"orders:2|c"), (0.5, b"orders:0.5|c")):
        system.collector.record_counter("orders", added)
        found.export(system)
        found.export(system)
        assert daemon.recv(9_999) == sent
    system.collector.store.remove("orders")
    found.export(system)
    system.collector.record_counter("orders", 9)
    found.export(system)
    assert daemon.recv(9_999) == b"orders:9|c"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_starts_at_zero(daemon):
    """A child sends its own increments, also while its parent exports."""
    found = endpoint(f"statsd://127.0.0.1:{daemon.getsockname()[1]}")
    system = MetricsSystem()
    system.collector.record_counter("orders", 5)
    found.export(system)
    assert daemon.recv(9_999) == b"orders:5|c"
    with found._lock:
        child = os.fork()
        if child == 0:
            system.collector.record_counter("orders", 7)
            found.export(system)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert daemon.recv(9_999) == b"orders:7|c"


@pytest.mark.parametrize("scheme", ["statsd", "otlp+http", "grafana+http"])
def test_two_exports_at_once_do_not_count_twice(scheme):
    """A second export waits, and fails after its time-out, also if the first one hangs."""
    found = endpoint(f"{scheme}://127.0.0.1:1?timeout=0.01")
    with found._lock, pytest.raises(OutputError, match="another export to it is running"):
        found.export(MetricsSystem())


def test_an_unknown_host_is_an_output_error():
    """A failed name resolution is a failed export."""
    system = MetricsSystem()
    system.collector.increment("orders")
    for url in ("statsd://host.invalid", "graphite://host.invalid", "influx+http://host.invalid?db=x"):
        with pytest.raises(OutputError, match=r"cannot export to .*host\.invalid"):
            endpoint(url).export(system)
