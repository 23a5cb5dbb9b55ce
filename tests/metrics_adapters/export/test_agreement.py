"""Every export path has the same series with the same values, read by the parser of its format."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapters.prometheus import Exposition, Format, PrometheusCollector, Pushgateway, write_textfile
from metrics_framework.clock import ManualClock
from metrics_framework.errors import SnapshotError
from metrics_framework.export.endpoints import make_endpoint
from metrics_framework.exposition.names import Escaping
from metrics_framework.snapshots.keys import custom_key, parse_custom_key
from tests.metrics_adapters.export.truth import RECORDS, TIMER, Truth, exposed
from tests.metrics_adapters.otlp.receivers import HttpReceiver, receiving
from tests.metrics_adapters.prometheus.gateways import answering


@pytest.fixture(scope="module")
def gateway():
    """Return a server that receives pushes."""
    with answering() as found:
        yield found


def check(
    truth: Truth, text: str, format: Format = Format.TEXT, escaping: Escaping = Escaping.VALUES
) -> None:
    """Check that a text has exactly the accepted records."""
    is_openmetrics = format is Format.OPENMETRICS
    parse = openmetrics_families if is_openmetrics else text_string_to_metric_families
    found = [sample[:3] for family in parse(text) for sample in family.samples]
    truth.check(found, escaping, openmetrics=is_openmetrics)


@pytest.mark.heavy
@settings(max_examples=100)
@given(RECORDS)
def test_every_prometheus_text_has_the_same_samples(tmp_path_factory, gateway, records):
    """The endpoint in each format and escaping, a registry, a push, a textfile and `export_metrics`."""
    truth = exposed(ManualClock(), records)
    system, store = truth.system, truth.system.collector.store
    registry = CollectorRegistry()
    collector = PrometheusCollector(registry, store)
    exposition = Exposition(store)
    for format, escaping in product(Format, Escaping):
        named = escaping if escaping is Escaping.ALLOW_UTF_8 else Escaping.VALUES
        check(truth, exposition.render(format, escaping).decode(), format, named)
    check(truth, generate_latest(registry).decode())
    # A collector does not know the format, and only the text format allows a count without a sum.
    if all(min(values) >= 0 for values in truth.values.values()):
        check(truth, openmetrics.generate_latest(registry).decode(), Format.OPENMETRICS)
    check(truth, system.aggregator.export_metrics("prometheus"))
    path = tmp_path_factory.mktemp("textfile") / "app.prom"
    write_textfile(path, system)
    check(truth, path.read_bytes().decode())  # without converting line breaks
    Pushgateway(gateway.url, "job").replace(system)
    check(truth, gateway.taken.pop().body.decode())
    collector.unregister()


@pytest.fixture(scope="module")
def otlp():
    """Return a receiver of OTLP, and an exporter to it."""
    with receiving(HttpReceiver) as found:
        yield found


def otlp_points(message: Any) -> dict:
    """Return the points of a message by scope, name and attributes."""
    (resource,) = message.resource_metrics
    found = {}
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                attributes = frozenset((one.key, one.value.string_value) for one in point.attributes)
                key = scope.scope.name == "metrics_framework.operations", metric.name, attributes
                assert key not in found
                found[key] = point
    return found


@pytest.mark.heavy
@settings(max_examples=100)
@given(RECORDS)
def test_otlp_has_the_same_points(otlp, records):
    """Names and tags are those that were recorded."""
    receiver, exporter = otlp
    truth = exposed(ManualClock(), records)
    receiver.script.taken.clear()
    exporter.export(truth.system)
    found = otlp_points(receiver.script.taken[-1].message) if receiver.script.taken else {}
    expected = {}
    for (named, tags), number in truth.numbers.items():
        expected[False, named.name, frozenset(tags)] = number
    for (named, tags), values in truth.values.items():
        name = f"{named.name}.duration" if named.is_operation else named.name
        expected[named.is_operation, name, frozenset(tags)] = values
    for (named, tags), outcomes in truth.outcomes.items():
        for error_type, number in {None: 0, **outcomes}.items():
            own = {("outcome", "success" if error_type is None else "failure")}
            own |= {("error.type", error_type)} if error_type is not None else set()
            expected[True, f"{named.name}.operations", frozenset(tags) | own] = number
    assert found.keys() == expected.keys()
    for key, point in found.items():
        wanted = expected[key]
        if isinstance(wanted, list):
            assert (point.count, point.min, point.max) == (len(wanted), min(wanted), max(wanted))
            assert not point.HasField("sum") or point.sum == pytest.approx(sum(wanted), rel=1e-12)
        else:
            assert getattr(point, point.WhichOneof("value")) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.slow
@settings(max_examples=100)
@given(RECORDS)
def test_a_snapshot_has_the_same_measurements(records):
    """All that v1 can hold is there, and the report names the rest."""
    truth = exposed(ManualClock(), records)
    try:
        snapshot, report = truth.system.build_snapshot()
    except SnapshotError:
        assert not truth.values
        assert all(number < 0 for number in truth.numbers.values())
        return
    found = {}
    for key, number in snapshot.metrics.custom.items():
        series = parse_custom_key(key)
        found[series.operation, series.name, frozenset(series.tags.items()), series.statistic] = number
    latency, left_out = snapshot.metadata.tags.get("latency_metric"), []
    for (named, tags), number in truth.numbers.items():
        key = False, named.name, frozenset(tags), None
        if number >= 0:
            assert found.pop(key) == pytest.approx(number, rel=1e-12)
        else:
            left_out.append(custom_key(named.name, dict(tags)))
    for (named, tags), values in truth.values.items():
        count = found.pop((named.is_operation, named.name, frozenset(tags), "count"), None)
        is_latency = named.metric_type is TIMER and named.name == latency
        assert count == len(values) or (count is None and is_latency)
        for statistic in ("mean", "p95", "p99"):
            key = named.is_operation, named.name, frozenset(tags), statistic
            if found.pop(key, None) is None and not is_latency:
                left_out.append(
                    custom_key(named.name, dict(tags), statistic=statistic, operation=named.is_operation)
                )
    for (named, tags), outcomes in truth.outcomes.items():
        rate = found.pop((True, named.name, frozenset(tags), "success_rate"))
        assert rate == pytest.approx(outcomes[None] / outcomes.total())
    assert not found
    assert sorted(left.what for left in report.left_out) == sorted(left_out)


def metric_values(rows: Iterable[dict[str, Any]]) -> dict:
    """Return the rows of an export by name, type, whether it is an operation, and tags."""
    found = {}
    for row in rows:
        is_operation = bool(row["metadata"].get("operation", False))
        key = row["name"], row["type"], is_operation, frozenset(row["tags"].items())
        assert key not in found
        found[key] = row
    return found


def csv_rows(text: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV text."""
    return [
        {
            **row,
            "value": float(row["value"]),
            "tags": json.loads(row["tags"]),
            "metadata": json.loads(row["metadata"]),
        }
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]


def refuse(constant: str) -> None:
    """Reject what is not JSON."""
    raise AssertionError(f"{constant} is not JSON")


READERS = {
    "json": lambda text: json.loads(text, parse_constant=refuse)["metrics"],
    "jsonl": lambda text: [json.loads(line, parse_constant=refuse) for line in text.split("\n") if line],
    "csv": csv_rows,
}


@settings(max_examples=50)
@given(RECORDS, st.sampled_from(sorted(READERS)))
def test_json_and_csv_have_the_same_series(records, format):
    """Each series is there once, with its total, last value or summary."""
    truth = exposed(ManualClock(), records)
    found = metric_values(READERS[format](truth.system.aggregator.export_metrics(format)))
    key = lambda named, tags: (*(named.name, named.metric_type.value, named.is_operation), frozenset(tags))  # noqa: E731
    series = [*truth.numbers, *truth.values, *truth.outcomes]
    rates = {one for one in found if one[1] == "rate" and not one[2]}  # derived from counters
    assert found.keys() - rates == {key(*one) for one in series}
    for one, number in truth.numbers.items():
        assert found[key(*one)]["value"] == pytest.approx(number, rel=1e-12)
    for one, values in truth.values.items():
        summary = found[key(*one)]["metadata"]
        assert (summary["count"], summary["min"], summary["max"]) == (len(values), min(values), max(values))
        assert summary["sum"] == pytest.approx(sum(values), rel=1e-12)
    for one, outcomes in truth.outcomes.items():
        metadata = found[key(*one)]["metadata"]
        assert metadata["successes"] == outcomes[None]
        assert metadata["failures"] == {
            error: number for error, number in outcomes.items() if error is not None
        }


# -- line protocols ----------------------------------------------------------------------------------------

Numbers = dict[tuple[str, frozenset[tuple[str, str]], str], float]
"""The name, tags and field of each number; a counter or gauge has the field ``value``."""

_STATISTICS = ("count", "sum", "avg", "min", "max", "stddev", "p50", "p90", "p95", "p99")
_FIELD = re.compile(
    rf"value|(duration_)?({'|'.join(_STATISTICS)})|(operations_)?(count|\w*success\w*|failures)"
)


def recorded_numbers(truth: Truth) -> Numbers:
    """Return the numbers of all series."""
    found: Numbers = {}
    for (named, tags), number in truth.numbers.items():
        found[named.name, frozenset(tags), "value"] = number
    for (named, tags), values in truth.values.items():
        prefix = "duration_" if named.is_operation else ""
        numbers = {"count": len(values), "sum": sum(values), "min": min(values), "max": max(values)}
        found |= {(named.name, frozenset(tags), f"{prefix}{field}"): one for field, one in numbers.items()}
    for (named, tags), outcomes in truth.outcomes.items():
        numbers = {"count": outcomes.total(), "successes": outcomes[None]}
        found |= {(named.name, frozenset(tags), f"operations_{field}"): one for field, one in numbers.items()}
    return found


def check_numbers(found: Numbers, expected: Numbers) -> None:
    """Check the numbers of an export, which also has statistics that are not expected."""
    assert {key: found.get(key) for key in expected} == pytest.approx(expected, rel=1e-12)
    assert {key[:2] for key in found} == {key[:2] for key in expected}


def unescaped(text: str) -> str:
    """Return the text of a name or value that may be escaped."""
    if not text.startswith("U__"):
        return text
    code = lambda match: chr(int(match[1], 16)) if match[1] else "_"  # noqa: E731
    return re.sub(r"__|_([0-9A-F]+)_", code, text[3:])


def parsed_path(path: str) -> tuple[str, frozenset[tuple[str, str]], str]:
    """Return the name, tags and field of a dotted path."""
    parts = path.split(".")
    field = parts.pop() if _FIELD.fullmatch(parts[-1]) else "value"
    tags = [part.split("=") for part in parts if "=" in part]
    name = ".".join(unescaped(part) for part in parts if "=" not in part)
    return name, frozenset((unescaped(tag), unescaped(text)) for tag, text in tags), field


def send(truth: Truth, url: str) -> None:
    """Export a system to a URL."""
    _, found = make_endpoint(url)
    found.export(truth.system)


@settings(max_examples=50)
@given(RECORDS)
def test_influx_has_the_same_numbers(gateway, records):
    """Read strictly: a line is a measurement, tags, fields and a time."""
    truth = exposed(ManualClock(), records)
    gateway.taken.clear()
    send(truth, f"influx+{gateway.url}?db=x&gzip=no")
    found: Numbers = {}

    def plain(text: str) -> str:
        return unescaped(re.sub(r"\\([, =])", r"\1", text))

    for line in "".join(taken.body.decode() for taken in gateway.taken).split("\n")[:-1]:
        series, fields, _ = re.split(r"(?<!\\) ", line)
        name, *tags = re.split(r"(?<!\\),", series)
        pairs = frozenset(tuple(map(plain, re.split(r"(?<!\\)=", tag))) for tag in tags)
        for field, number in (one.split("=") for one in fields.split(",")):
            assert (plain(name), pairs, field) not in found
            found[plain(name), pairs, field] = float(number)
    check_numbers(found, recorded_numbers(truth))


@settings(max_examples=50)
@given(RECORDS)
def test_graphite_has_the_same_numbers(records):
    """Read strictly: a line is a path, a number and a time."""
    truth = exposed(ManualClock(), records)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        received = []

        def receive() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                received.extend(lines)

        thread = threading.Thread(target=receive)
        thread.start()
        send(truth, f"graphite://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    found: Numbers = {}
    for line in received:
        path, number, _ = line.decode("ascii").split(" ")
        assert parsed_path(path) not in found
        found[parsed_path(path)] = float(number)
    check_numbers(found, recorded_numbers(truth))


@pytest.mark.slow
@settings(max_examples=50)
@given(RECORDS)
def test_statsd_has_the_same_numbers(records):
    """Read strictly: counters are added up, and a signed gauge changes it."""
    truth = exposed(ManualClock(), records)
    found: Numbers = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.setblocking(False)
        send(truth, f"statsd://127.0.0.1:{daemon.getsockname()[1]}")
        with suppress(BlockingIOError):
            while True:
                for line in daemon.recv(65_536).decode("ascii").split("\n"):
                    path, number, kind = re.fullmatch(r"([^:|]+):([^:|]+)\|([cg])", line).groups()
                    key, changes = parsed_path(path), kind == "c" or number[0] in "+-"
                    found[key] = found.get(key, 0) * changes + float(number)
    expected = {
        key: number
        for key, number in recorded_numbers(truth).items()
        # A counter is not sent before it has grown; the sum of negative values may fall.
        if key in found or (number and not key[2].endswith("sum"))
    }
    assert {key: found.get(key) for key in expected} == pytest.approx(expected, rel=1e-12)
