"""A push contains the metrics of a store, reaches only the configured address, and fails with one error."""

from __future__ import annotations

import asyncio
import base64
import pickle
import socket
import ssl
import threading
import time
import traceback
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapters.http_client import Address, exchange
from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.null import NullCollector
from metrics_adapters.prometheus import PrometheusCollector, Pushgateway
from metrics_adapters.prometheus.targets import Exposition
from metrics_framework import InvalidInputError, MetricsSystem, OutputError, RefusedError
from metrics_framework.recording import Store
from tests.metrics_adapters.prometheus.gateways import answering, speaking

SECRET = "pass:w@rd/1"
IN_URL = "pass%3Aw%40rd%2F1"


@pytest.fixture
def gateway():
    """Run a gateway that accepts everything."""
    with answering() as running:
        yield running


@pytest.fixture
def collector():
    """Return a collector with one counter of 3."""
    made = InMemoryCollector()
    made.record_counter("orders", 3, {"kind": "book"})
    return made


def samples(body):
    """Return name and labels to value and timestamp."""
    return {
        (sample.name, *sorted(sample.labels.items())): (sample.value, sample.timestamp)
        for one in text_string_to_metric_families(body.decode())
        for sample in one.samples
    }


def messages(caplog):
    """Return the logged messages."""
    return [record.getMessage() for record in caplog.records]


# -- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "method"), [("replace", "PUT"), ("add", "POST")])
def test_a_push_sends_the_text_to_its_group(gateway, collector, call, method):
    """Method, path, content type and body are those that a Pushgateway requires."""
    getattr(Pushgateway(gateway.url, "nightly", {"shard": "3"}), call)(collector)
    (taken,) = gateway.taken
    assert (taken.method, taken.path) == (method, "/metrics/job/nightly/shard/3")
    assert taken.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert taken.body.endswith(b"\n")
    assert samples(taken.body) == {("orders_total", ("kind", "book")): (3, None)}


def test_a_group_is_deleted(gateway):
    """A DELETE request has no body."""
    Pushgateway(gateway.url, "nightly").delete()
    (taken,) = gateway.taken
    assert (taken.method, taken.path, taken.body) == ("DELETE", "/metrics/job/nightly", b"")
    assert "Content-Length" not in taken.headers


@pytest.mark.parametrize(
    ("url", "path"),
    [("/", "/metrics/job/j"), ("/push/", "/push/metrics/job/j"), ("/a b/%20", "/a%20b/%20/metrics/job/j")],
)
def test_a_gateway_may_have_a_path_prefix(gateway, collector, url, path):
    """A gateway behind a proxy works with and without a trailing slash."""
    Pushgateway(gateway.url + url, "j").replace(collector)
    assert gateway.taken[0].path == path


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("plain-1_2.3~", "a/plain-1_2.3~"),
        ("a b+%é", "a/a%20b%2B%25%C3%A9"),
        ("", "a@base64/="),
        ("/var/tmp", "a@base64/L3Zhci90bXA="),
        ("..", "a@base64/Li4="),
        (".", "a@base64/Lg=="),
    ],
)
def test_label_values_survive_the_path(value, segment):
    """Values that a proxy would change are sent in base64, others percent-encoded."""
    assert (
        repr(Pushgateway("http://g", "j", {"a": value})) == f"Pushgateway('http://g/metrics/job/j/{segment}')"
    )


def test_a_job_may_have_slashes():
    """The name of the job is encoded like other values."""
    assert "/metrics/job@base64/YS9i'" in repr(Pushgateway("http://g", "a/b"))


def test_every_kind_of_target_can_be_pushed(gateway, collector):
    """A store, a part on one, a system and an exposition give the same push."""
    system = MetricsSystem(collector=collector)
    own = Pushgateway(gateway.url, "j")
    for metrics in (collector, collector.store, system, Exposition(collector.store)):
        own.replace(metrics)
    assert len({taken.body for taken in gateway.taken}) == 1
    assert samples(gateway.taken[0].body)


def test_each_push_may_have_another_store(gateway, collector):
    """One gateway object can push several stores, one after another."""
    own, other = Pushgateway(gateway.url, "j"), InMemoryCollector()
    other.increment("others")
    for metrics in (collector, other, collector):
        own.replace(metrics)
    assert [b"others" in taken.body for taken in gateway.taken] == [False, True, False]


def test_an_empty_store_is_an_empty_push(gateway):
    """A store without records empties the group."""
    Pushgateway(gateway.url, "j").replace(Store())
    assert (gateway.taken[0].body, gateway.taken[0].headers["Content-Length"]) == (b"", "0")


def test_a_large_push_arrives_whole(gateway):
    """A body that is sent in many pieces equals the rendered text."""
    collector = InMemoryCollector()
    for number in range(5_000):
        collector.increment("orders", {"number": f"{number:050}"})
    Pushgateway(gateway.url, "j").replace(collector)
    assert len(samples(gateway.taken[0].body)) == 5_000


def test_a_target_without_a_store_is_rejected(gateway):
    """The error says what to pass instead."""
    with pytest.raises(InvalidInputError, match=r"NullCollector.*has no store and cannot be exposed"):
        Pushgateway(gateway.url, "j").replace(NullCollector())
    assert gateway.taken == []


def test_an_exposition_has_its_own_registry(gateway, collector):
    """A registry beside an exposition is an error, because it would be ignored."""
    own = Pushgateway(gateway.url, "j", registry=CollectorRegistry())
    with pytest.raises(InvalidInputError, match="an Exposition has its own registry"):
        own.replace(Exposition(collector.store))


# -- labels that the group overwrites ----------------------------------------------------------------------


def test_a_label_that_the_gateway_overwrites_is_logged_once(gateway, caplog):
    """A tag with the name of a group label does not arrive, which is logged once."""
    collector = InMemoryCollector()
    own = Pushgateway(gateway.url, "j", {"shard": "1"})
    own.replace(collector)
    collector.increment("orders", {"job": "own", "other": "x"})
    collector.increment("orders", {"shard": "7"})
    own.replace(collector)
    own.add(collector)
    assert [message for message in messages(caplog) if "overwrites" in message] == [
        f"event='the Pushgateway overwrites a label of the pushed metrics' label={label!r}"
        for label in ("job", "shard")
    ]


def test_a_text_that_looks_like_a_label_is_ignored(gateway, caplog):
    """Text inside a value or a help text is not a label."""
    collector = InMemoryCollector()
    collector.describe("orders", help='{job="x"}')
    collector.increment("orders", {"text": '{job="x",job=', "my_job": "a"})
    Pushgateway(gateway.url, "j").replace(collector)
    assert b'job="' in gateway.taken[0].body
    assert messages(caplog) == []


# -- wrong arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gateway:9091", "does not begin with http://"),
        ("ftp://gateway", "does not begin with http://"),
        ("", "does not begin with http://"),
        (None, "does not begin with http://"),
        (b"http://gateway", "does not begin with http://"),
        ("http://", "names no host"),
        ("http://a b", "names no host"),
        ("http://a..b", "cannot be read"),
        (f"http://{'a' * 64}", "cannot be read"),
        ("http://gateway:port", "cannot be read"),
        ("http://gateway:70000", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://gateway?x=1", "a query"),
        ("http://gateway#x", "a query or a fragment"),
    ],
)
def test_a_wrong_url_is_rejected(url, reason):
    """The constructor raises an error with an example of a valid URL."""
    with pytest.raises(InvalidInputError, match=rf"such as http://pushgateway:9091: .*{reason}"):
        Pushgateway(url, "j")


@pytest.mark.parametrize("host", ["localhost", "[::1]:9091", "gäteway:1", "10.0.0.1"])
def test_valid_hosts_are_accepted(host):
    """Host names, also beyond ASCII, and IPv4 and IPv6 addresses are valid."""
    assert f"'http://{host}/metrics/job/j'" in repr(Pushgateway(f"http://{host}", "j"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"job": ""}, "job '' is not a non-empty string"),
        ({"job": None}, "job None is not"),
        ({"grouping": {"a-b": "1", "__x": "2", "0": "3", "ok": "4"}}, "'0', '__x', 'a-b' cannot be a label"),
        ({"grouping": {"a\n": "1"}}, r"'a\\n' cannot be a label"),
        ({"grouping": {"job": "x"}}, "job='x' is a separate argument"),
        ({"grouping": {"le": "x"}}, "'le' is a reserved label of histograms"),
        ({"grouping": {"a": "\udc80"}}, r"a='\\udc80' cannot be a label"),
        ({"grouping": "shard"}, "'shard' is not a mapping"),
        ({"timeout": 0}, "timeout=0 is not a positive number"),
        ({"timeout": float("inf")}, "timeout=inf"),
        ({"timeout": True}, "timeout=True"),
        ({"timeout": None}, "timeout=None"),
        ({"tls": ssl.create_default_context()}, "tls= requires a url"),
        ({"auth": ("a:b", SECRET)}, r"auth must be a \(user, password\) tuple"),
        ({"auth": SECRET}, r"auth must be a \(user, password\) tuple"),
        ({"headers": {"X": f"{SECRET}\r\nY: 1"}}, "the value of 'X' is not a line"),
        ({"headers": {"X": f"{SECRET}€"}}, "the value of 'X' is not a line"),
        ({"headers": {"X\n": "1"}}, r"'X\\n' is not the name of a header"),
        ({"headers": {"content-Type": "x"}}, "'content-Type' is made of the other arguments"),
        ({"headers": {"authorization": SECRET}, "auth": ("a", SECRET)}, "'authorization' is made of"),
        ({"url": f"http://a:{IN_URL}@g", "auth": ("a", SECRET)}, "both url and auth= contain a user"),
        ({"url": f"http://a:{SECRET}@g"}, "an @ is in its path"),
        ({"url": "http://a:pass/word@g"}, "cannot be read"),
        ({"url": "http://a:1/x@g"}, "an @ is in its path"),
        ({"url": f"http://a:{SECRET}?@g"}, "a query"),
    ],
)
def test_a_wrong_argument_is_rejected(arguments, message):
    """The constructor raises one error, which contains no secret."""
    with pytest.raises(InvalidInputError, match=message) as caught:
        Pushgateway(**{"url": "http://gateway", "job": "j", **arguments})
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


# -- secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["url", "auth"])
def test_a_password_is_sent_but_never_shown(gateway, collector, caplog, place):
    """The gateway receives it; no message, log line or `repr` contains it."""
    address = gateway.url.removeprefix("http://")
    if place == "url":
        own = Pushgateway(f"http://me:{IN_URL}@{address}", "j")
    else:
        own = Pushgateway(gateway.url, "j", auth=("me", SECRET))
    own.replace(collector)
    sent = gateway.taken[0].headers["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == f"me:{SECRET}"
    gateway.status, gateway.text = 401, "Unauthorized"
    with pytest.raises(RefusedError, match=r"HTTP status 401: Unauthorized") as caught:
        own.replace(collector)
    with MetricsSystem(collector=collector, outputs=[own]):
        pass
    texts = [*messages(caplog), repr(own), *traceback.format_exception(caught.value)]
    assert any("HTTP status 401" in text for text in messages(caplog))
    for text in texts:
        assert not any(secret in text for secret in (SECRET, IN_URL, sent, "me:"))


def test_headers_are_sent(gateway, collector):
    """A user-defined token reaches the gateway."""
    Pushgateway(gateway.url, "j", headers={"Authorization": "Bearer t", "X-Scope": "é"}).replace(collector)
    headers = gateway.taken[0].headers
    assert (headers["Authorization"], headers["X-Scope"]) == ("Bearer t", "é")


# -- responses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 204])
def test_every_successful_status_is_accepted(gateway, collector, status):
    """Different versions of the gateway return different statuses."""
    gateway.status = status
    Pushgateway(gateway.url, "j").replace(collector)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_a_rejected_push_raises_refused_error(gateway, collector, status):
    """The `RefusedError` contains the address and the text of the gateway."""
    gateway.status, gateway.text = status, 'pushed metrics are\ninvalid: "x"\x1b[31m\n' + "y" * 5_000
    with pytest.raises(RefusedError) as caught:
        Pushgateway(gateway.url, "j").replace(collector)
    start = f"cannot push to {gateway.url}/metrics/job/j: HTTP status {status}: pushed metrics are invalid"
    assert str(caught.value).startswith(f'{start}: "x" [31m yyy')
    assert len(str(caught.value)) < len(start) + 520
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_error_is_temporary(gateway, collector, status):
    """A status that blames the server or the moment is an `OutputError`, not a `RefusedError`."""
    gateway.status = status
    with pytest.raises(OutputError, match=rf"HTTP status {status}$") as caught:
        Pushgateway(gateway.url, "j").add(collector)
    assert not isinstance(caught.value, RefusedError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", ["replace", "add"])
def test_a_redirect_is_not_followed(gateway, collector, status, call):
    """A redirect is a `RefusedError` that names the target: nothing is sent to another address."""
    with answering() as other:
        gateway.status = status
        place = other.url.replace("http://", "http://you:secret@")
        gateway.headers["Location"] = f"{place}/metrics/job/j?token=secret"
        message = rf"{status}, a redirect to {other.url}/metrics/job/j, which is not followed: change url"
        with pytest.raises(RefusedError, match=message):
            getattr(Pushgateway(gateway.url, "j"), call)(collector)
        assert other.taken == []


def test_the_message_of_a_failed_deletion_names_the_deletion(gateway):
    """The message of a failed deletion does not speak of a push."""
    gateway.status = 405
    with pytest.raises(RefusedError, match=r"^cannot delete http://.*/metrics/job/j: HTTP status 405$"):
        Pushgateway(gateway.url, "j").delete()


def test_proxies_of_the_environment_are_not_used(gateway, collector, monkeypatch):
    """A configured proxy receives nothing."""
    with answering() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        Pushgateway(gateway.url, "j").replace(collector)
        assert (len(gateway.taken), proxy.taken) == (1, [])


# -- no response -------------------------------------------------------------------------------------------


def refused_port():
    """Return a URL without a listening server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_unreachable_gateway_is_an_output_error(collector):
    """The error contains the address and the reason of the system."""
    url = refused_port()
    with pytest.raises(
        OutputError, match=rf"^cannot push to {url}/metrics/job/j: Connection refused$"
    ) as caught:
        Pushgateway(url, "j").replace(collector)
    assert not isinstance(caught.value, RefusedError)


def test_an_unknown_host_is_an_output_error(collector):
    """A failed name resolution is an `OutputError` too."""
    with pytest.raises(OutputError, match=r"cannot push to http://nobody.invalid/metrics/job/j: "):
        Pushgateway("http://nobody.invalid", "j").replace(collector)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "Remote end closed connection without response|Connection reset by peer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"the response is not HTTP \(BadStatusLine\('SSH-2.0-OpenSSH_9.2"),
        (b"HTTP/1.1 " + b"2" * 70_000, "the response is not HTTP"),
    ],
)
def test_an_invalid_response_is_an_output_error(collector, said, reason):
    """A broken connection or another protocol is named in the error."""

    def talk(caller):
        caller.recv(65_536)
        with suppress(OSError):
            caller.sendall(said)

    with speaking(talk) as url, pytest.raises(OutputError, match=reason) as caught:
        Pushgateway(url, "j").replace(collector)
    assert not isinstance(caught.value, RefusedError)


def test_a_missing_certificate_is_an_output_error(gateway, collector):
    """A server without TLS under an https URL is an error that says so."""
    with pytest.raises(OutputError, match=r"cannot push to https://.*(?i:ssl)"):
        Pushgateway(gateway.url.replace("http:", "https:"), "j", tls=ssl.create_default_context()).replace(
            collector
        )


def silent(caller, ended):
    """Read everything and send nothing."""
    ended.wait(10)


def dripping(caller, ended):
    """Respond one byte at a time, each within the time-out."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50:
        if ended.wait(0.02):
            return
        caller.sendall(bytes([byte]))


@pytest.mark.parametrize("talk", [silent, dripping])
def test_a_slow_response_times_out(collector, talk):
    """The time-out covers the whole push, even if bytes keep arriving."""
    ended = threading.Event()
    with speaking(lambda caller: suppressed(talk, caller, ended)) as url:
        begin = time.monotonic()
        with pytest.raises(OutputError, match=r"no answer within 0.2 seconds$"):
            Pushgateway(url, "j", timeout=0.2).replace(collector)
        assert time.monotonic() - begin < 5
        ended.set()


def suppressed(talk, *arguments):
    """Talk until the client closes the connection."""
    with suppress(OSError):
        talk(*arguments)


@pytest.mark.slow
def test_a_gateway_that_reads_slowly_times_out():
    """The time-out also covers sending."""
    ended, read = threading.Event(), []
    body = bytes(50_000_000)

    def talk(caller):
        while not ended.wait(0.02) and (piece := caller.recv(200_000)):
            read.append(len(piece))

    with speaking(lambda caller: suppressed(talk, caller)) as url:
        address = Address("http", "127.0.0.1", int(url.rpartition(":")[2]), "/")
        with pytest.raises(OSError, match=r"^no answer within 0.3 seconds$"):
            exchange(address, "PUT", body, {}, 0.3)
        ended.set()
    assert sum(read) < len(body) / 2


def test_an_early_response_is_read(collector):
    """A server that responds before it has read the body, and closes, is still understood."""
    for number in range(10_000):
        collector.increment("many", {"number": f"{number:0500}"})

    def talk(caller):
        caller.recv(1_000)
        caller.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large")

    with (
        speaking(talk) as url,
        pytest.raises(RefusedError, match="HTTP status 413: too large"),
    ):
        Pushgateway(url, "j").replace(collector)


# -- as an output ------------------------------------------------------------------------------------------


def test_a_failed_push_loses_nothing(gateway, collector):
    """The next push contains the same totals since the start."""
    own = Pushgateway(gateway.url, "j")
    gateway.status = 503
    with pytest.raises(OutputError):
        own.replace(collector)
    collector.record_counter("orders", 4, {"kind": "book"})
    gateway.status = 200
    own.replace(collector)
    assert samples(gateway.taken[-1].body) == {("orders_total", ("kind", "book")): (7, None)}


def test_a_system_pushes_at_shutdown(gateway):
    """As an output, it pushes once at shutdown."""
    with MetricsSystem(outputs=[Pushgateway(gateway.url, "j")]) as metrics:
        metrics.collector.increment("orders")
        assert gateway.taken == []
    metrics.shutdown_metrics()
    (taken,) = gateway.taken
    assert taken.method == "PUT"
    assert samples(taken.body)[("orders_total",)] == (1, None)


def test_a_system_pushes_at_its_interval(gateway):
    """As an output, it pushes at every interval, even if no snapshot can be built."""
    metrics = MetricsSystem(outputs=[Pushgateway(gateway.url, "j")])
    metrics.collector.record_gauge("level", -1)  # v1 holds no negative value
    metrics.initialize_metrics({"collection_interval": 0.02})
    end = time.monotonic() + 20
    while len(gateway.taken) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    metrics.shutdown_metrics()
    assert len(gateway.taken) >= 3
    assert all(samples(taken.body)[("level",)] == (-1, None) for taken in gateway.taken)


def test_a_system_pushes_on_demand(gateway):
    """An output can be exported by name, and the result tells whether it was reached."""
    metrics = MetricsSystem(outputs=[Pushgateway(gateway.url, "j")])
    assert asyncio.run(metrics.export_metrics_async(["pushgateway"])) == {"pushgateway": True}
    gateway.status = 400
    assert asyncio.run(metrics.export_metrics_async(["pushgateway"])) == {"pushgateway": False}


def test_a_failing_gateway_does_not_affect_the_application(caplog):
    """A failed final push is logged with its address, and shutdown continues."""
    url = refused_port()
    with MetricsSystem(outputs=[Pushgateway(url, "j")]) as metrics:
        metrics.collector.increment("orders")
    (message,) = messages(caplog)
    assert "event='metrics not exported' output='pushgateway'" in message
    assert f"OutputError('cannot push to {url}/metrics/job/j: Connection refused')" in message


# -- prometheus_client's metrics ---------------------------------------------------------------------------


class Timed:
    """A custom collector that sets timestamps."""

    def collect(self):
        """Yield a gauge with timestamps, and with texts that look like timestamps."""
        family = GaugeMetricFamily("timed", "help 1 2", labels=["text"])
        for text in ("a b", "} 1 2", '"} 1', "plain"):
            family.add_metric([text], 5, timestamp=1_700_000_000)
            family.add_metric([f"no {text}"], 6)
        yield family
        bare = GaugeMetricFamily("bare", "")
        bare.add_metric([], 1.5, timestamp=1_700_000_000.5)
        yield bare


def test_a_registry_is_pushed_without_timestamps(gateway, collector):
    """Metrics of the application are pushed too, but gateways reject timestamps."""
    registry = CollectorRegistry()
    Counter("own", "Own.", registry=registry).inc()
    registry.register(Timed())
    Pushgateway(gateway.url, "j", registry=registry).replace(collector)
    found = samples(gateway.taken[0].body)
    assert found[("orders_total", ("kind", "book"))] == (3, None)
    assert found[("own_total",)] == (1, None)
    assert found[("bare",)] == (1.5, None)
    for text in ("a b", "} 1 2", '"} 1', "plain"):
        assert found[("timed", ("text", text))] == (5, None)
        assert found[("timed", ("text", f"no {text}"))] == (6, None)


def test_only_timestamps_are_removed_from_a_registry(gateway, collector, monkeypatch):
    """Values stay unchanged, whatever the labels contain."""
    registry = CollectorRegistry()
    registry.register(Timed())
    text = generate_latest(registry) + b'own{text="a} 1"} 6\nown{text="b c"} 7\nown{text="d"} 8 9\nlone 1\n'
    assert b" 1700000000500\n" in text
    monkeypatch.setattr(Exposition, "registry_text", lambda self, format: text)
    Pushgateway(gateway.url, "j").replace(collector)
    found = samples(gateway.taken[0].body)
    assert found.pop(("orders_total", ("kind", "book"))) == (3, None)
    assert found == {key: (value, None) for key, (value, _) in samples(text).items()}
    assert b"# HELP timed help 1 2\n" in gateway.taken[0].body


def test_a_collector_of_a_registry_is_pushed_once(gateway):
    """The metrics of a registered `PrometheusCollector` are not sent twice."""
    registry = CollectorRegistry()
    collector = PrometheusCollector(registry)
    collector.increment("orders")
    Pushgateway(gateway.url, "j", registry=registry).replace(collector)
    assert gateway.taken[0].body.count(b"\norders_total") == 1
