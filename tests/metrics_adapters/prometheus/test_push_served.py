"""The effect of a push on a real Pushgateway."""

from __future__ import annotations

import json
import re
import string
import time
from contextlib import contextmanager
from uuid import uuid4

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, push_to_gateway

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.prometheus import PrometheusCollector, Pushgateway
from metrics_framework import MetricsSystem, OutputError, RefusedError
from tests.servers.fixtures import required
from tests.servers.process import LOOPBACK, request, running

pytestmark = pytest.mark.heavy

OWN = {"labels", "last_push_successful", "push_time_seconds", "push_failure_time_seconds"}


def groups(address):
    """Return the groups of the gateway: labels to the names, labels and values of the series."""
    data = json.loads(request("GET", address, "/api/v1/metrics")[1])["data"]
    return [
        (
            group["labels"],
            {
                (name, *sorted((key, text) for key, text in one["labels"].items() if text)): one.get("value")
                for name, family in group.items()
                if name not in OWN
                for one in family["metrics"]
            },
        )
        for group in data
    ]


def group(address, **labels):
    """Return the series of one group, or `None` if it does not exist."""
    return next((series for found, series in groups(address) if found == labels), None)


def is_gone(address, **labels):
    """Say whether a group is gone, at the latest in 30 seconds: a gateway deletes after it has answered."""
    end = time.monotonic() + 30
    while (found := group(address, **labels)) is not None and time.monotonic() < end:
        time.sleep(0.01)
    return found is None


@pytest.fixture
def job():
    """Return a job of the test's own."""
    return f"job-{uuid4().hex}"


@pytest.fixture
def gateway(pushgateway, job):
    """Return the group of the test's job; it is deleted afterwards, and with it the types of its names."""
    own = Pushgateway(f"http://{pushgateway}", job)
    yield own
    own.delete()


def test_replace_removes_earlier_names(pushgateway, gateway, job):
    """A name that is not pushed again is removed."""
    first, second = InMemoryCollector(), InMemoryCollector()
    first.increment("first")
    first.increment("both")
    second.record_counter("both", 5)
    gateway.replace(first)
    assert set(group(pushgateway, job=job)) == {("first_total", ("job", job)), ("both_total", ("job", job))}
    gateway.replace(second)
    assert group(pushgateway, job=job) == {("both_total", ("job", job)): "5"}


def test_add_keeps_other_names(pushgateway, gateway, job):
    """A pushed name replaces all of its series; other names stay."""
    first, second = InMemoryCollector(), InMemoryCollector()
    first.increment("first")
    first.increment("both", {"kind": "a"})
    second.record_counter("both", 5, {"kind": "b"})
    gateway.replace(first)
    gateway.add(second)
    assert group(pushgateway, job=job) == {
        ("first_total", ("job", job)): "1",
        ("both_total", ("job", job), ("kind", "b")): "5",
    }


def test_delete_affects_one_group(pushgateway, gateway, job):
    """Deleting a group that does not exist is not an error."""
    other = Pushgateway(f"http://{pushgateway}", job, {"shard": "2"})
    collector = InMemoryCollector()
    collector.increment("orders")
    gateway.replace(collector)
    other.replace(collector)
    gateway.delete()
    gateway.delete()
    assert is_gone(pushgateway, job=job)
    assert group(pushgateway, job=job, shard="2")
    other.delete()
    assert is_gone(pushgateway, job=job, shard="2")


LABEL = st.from_regex(re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,8}", re.ASCII), fullmatch=True).filter(
    lambda name: name not in ("job", "le", "quantile", "instance")
)
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.text(st.sampled_from("/.+%@=?#;&\\: \n" + string.ascii_letters), max_size=8),
    st.sampled_from(["", ".", "..", "/", "//", "../..", "a/../b", "%2F", "%", "job@base64", "=", "+", " "]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=TEXT.filter(bool), grouping=st.dictionaries(LABEL, TEXT, max_size=3))
def test_any_text_can_be_a_group_label(pushgateway, job, grouping):
    """The gateway has the exact job and grouping, for any text, and `delete` finds them."""
    collector = InMemoryCollector()
    collector.increment("odd")
    own = Pushgateway(f"http://{pushgateway}", job, grouping)
    own.replace(collector)
    try:
        found = group(pushgateway, job=job, **grouping)
        labels = sorted((name, text) for name, text in {**grouping, "job": job}.items() if text)
        assert found == {("odd_total", *labels): "1"}
    finally:
        own.delete()
    assert is_gone(pushgateway, job=job, **grouping)


def test_a_type_conflict_is_rejected_with_the_reason(pushgateway, gateway, job):
    """One name with two types in two groups is rejected; the group keeps its metrics."""
    counter, gauge = InMemoryCollector(), InMemoryCollector()
    counter.increment("clash")
    gauge.record_gauge("clash_total", 2)
    gateway.replace(counter)
    other = Pushgateway(f"http://{pushgateway}", job, {"shard": "2"})
    with pytest.raises(RefusedError) as caught:
        other.replace(gauge)
    address = rf"http://{pushgateway}/metrics/job/{job}/shard/2"
    assert re.match(rf"cannot push to {address}: HTTP status 400: .*clash_total", str(caught.value))
    assert group(pushgateway, job=job) == {("clash_total", ("job", job)): "1"}
    other.delete()


def test_series_that_differ_only_in_the_job_are_rejected(pushgateway, gateway, job, caplog):
    """The job of the group overwrites a tag `job`: one such series is accepted, two are not."""
    collector = InMemoryCollector()
    collector.increment("orders", {"job": "own"})
    gateway.replace(collector)
    assert group(pushgateway, job=job) == {("orders_total", ("job", job)): "1"}
    assert "overwrites a label" in caplog.text
    collector.increment("orders", {"job": "other"})
    with pytest.raises(RefusedError, match="same name and label values"):
        gateway.replace(collector)


def test_a_whole_system_arrives(pushgateway, gateway, job):
    """The gateway accepts every type, with texts of all kinds."""
    metrics = MetricsSystem(collector=PrometheusCollector(CollectorRegistry()), outputs=[gateway])
    metrics.collector.describe("orders", help='All "orders"\n\\.')
    metrics.collector.increment("orders", {"kind": 'é"\n\\ {}', "empty": ""})
    metrics.collector.record_gauge("level", -1.5)
    metrics.collector.record_histogram("size", 3)
    with metrics.measure("load"):
        pass
    metrics.shutdown_metrics()
    found = group(pushgateway, job=job)
    assert found[("orders_total", ("job", job), ("kind", 'é"\n\\ {}'))] == "1"
    assert found[("level", ("job", job))] == "-1.5"
    assert {name for name, *_ in found} == {
        "orders_total",
        "level",
        "size",
        "load_duration_seconds",
        "load_operations_total",
    }


@contextmanager
def gateway_in(folder):
    """Run a gateway of the test's own, which remembers nothing."""
    arguments = (f"--web.listen-address={LOOPBACK}", "--persistence.file=")
    with running([required("prometheus-pushgateway"), *arguments], folder) as address:
        yield address


def test_nothing_is_lost_when_a_gateway_dies(tmp_path, job):
    """After a restart without data, the next push restores everything."""
    collector = InMemoryCollector()
    collector.record_counter("orders", 3)
    with gateway_in(tmp_path) as address:
        Pushgateway(f"http://{address}", job).replace(collector)
    collector.record_counter("orders", 4)
    with pytest.raises(OutputError, match="Connection refused") as caught:
        Pushgateway(f"http://{address}", job).replace(collector)
    assert not isinstance(caught.value, RefusedError)
    collector.record_counter("orders", 5)
    with gateway_in(tmp_path) as address:
        assert groups(address) == []
        Pushgateway(f"http://{address}", job).replace(collector)
        assert group(address, job=job) == {("orders_total", ("job", job)): "12"}


def test_a_hanging_gateway_times_out(tmp_path, job):
    """A suspended gateway costs the time-out; after it resumes, it receives everything."""
    collector = InMemoryCollector()
    collector.increment("orders")
    with gateway_in(tmp_path) as address:
        (process,) = (one for one in psutil.Process().children() if one.cwd() == str(tmp_path))
        own = Pushgateway(f"http://{address}", job, timeout=0.3)
        own.replace(collector)
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:  # its other threads run a moment longer
            time.sleep(0.001)
        try:
            collector.increment("orders")
            with pytest.raises(OutputError, match=r"no answer within 0.3 s"):
                own.replace(collector)
            collector.increment("orders")
        finally:
            process.resume()
        patient = Pushgateway(f"http://{address}", job)
        # The push that timed out is still in flight, and may overtake the first one that succeeds.
        end = time.monotonic() + 30
        wanted = {("orders_total", ("job", job)): "3"}
        while group(address, job=job) != wanted and time.monotonic() < end:
            patient.replace(collector)
        assert group(address, job=job) == wanted


def test_push_to_gateway_accepts_the_registry(pushgateway, gateway, job):
    """`push_to_gateway` pushes the same metrics as `Pushgateway`."""
    registry = CollectorRegistry()
    collector = PrometheusCollector(registry)
    collector.increment("orders", {"kind": "a"})
    collector.record_gauge("level", 2.5)
    push_to_gateway(pushgateway, job, registry)
    theirs = group(pushgateway, job=job)
    gateway.replace(collector)
    assert group(pushgateway, job=job) == theirs
    assert theirs == {("orders_total", ("job", job), ("kind", "a")): "1", ("level", ("job", job)): "2.5"}
