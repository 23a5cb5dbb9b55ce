"""Every output ends at its deadline, whatever its server does, and the others are written in time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from metrics_framework import MetricsSystem
from metrics_framework.errors import OutputError
from metrics_framework.export.endpoints import make_endpoint
from tests.metrics_adapters.export.failing_servers import failing_servers
from tests.metrics_adapters.otlp.receivers import GrpcReceiver, HttpReceiver

SECONDS = 4.0
"""The deadline of the exports."""
SLACK_SECONDS = 4.0
"""How much longer a busy machine may take."""
MAX_GROWTH_BYTES = 150e6
"""How much more memory a process with about 60 outputs may use. An endless response would fill it."""

ENDPOINTS = {
    "webhook": "webhook+http://:geheim@127.0.0.1:{port}/geheim?kind={kind}",
    "influx": "influx+http://:geheim@127.0.0.1:{port}/{kind}?org=me&bucket=app",
    "pushgateway": "pushgateway+http://me:geheim@127.0.0.1:{port}/{kind}?job=nightly",
    "grafana": "grafana+http://:geheim@127.0.0.1:{port}/{kind}",
    "otlp-http": "otlp+http://me:geheim@127.0.0.1:{port}/{kind}",
    "otlp-grpc": "otlp+grpc://:geheim@127.0.0.1:{port}",
    "graphite": "graphite://127.0.0.1:{port}?prefix={kind}",
    "statsd": "statsd://127.0.0.1:{port}?prefix={kind}",
}

SUCCESSES = {
    # A success needs no body. OTLP reads it, and a text that is not a message means that all was accepted.
    *(
        (name, kind)
        for name in ("webhook", "influx", "pushgateway", "grafana")
        for kind in ("slow-body", "endless")
    ),
    ("otlp-http", "endless"),
    # Graphite has no responses: a server that closes has read everything, as far as a client can know.
    *(("graphite", kind) for kind in ("closing", "garbage", "redirecting", "self-signed")),
}
"""The exports that succeed, or may."""

PROGRAM = """
import asyncio, json, os, re, sys, time
from metrics_framework import MetricsSystem

class Hanging:
    name = "hanging"
    def export(self, system):
        time.sleep(3600)

def at_interval():
    metrics.initialize_metrics({"collection_interval": 0.1})
    time.sleep(seconds + 2)

def on_demand():
    assert asyncio.run(metrics.export_metrics_async(["hanging", *urls]))[urls[-1]]

occasion, seconds, urls = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])
metrics = MetricsSystem(
    outputs=[Hanging()],
    shutdown_timeout=seconds,
    shutdown_on_exit=occasion == "exit",
    shutdown_on_sigterm=occasion == "sigterm",
)
metrics.initialize_metrics({"export_endpoints": urls, "export_timeout": seconds})
metrics.collector.record_counter("orders", 3)
metrics.timer.time_operation("checkout", lambda: None)
os.write(1, b"ready\\n")
if occasion == "sigterm":
    time.sleep(3600)
elif occasion != "exit":
    begin = time.monotonic()
    {"interval": at_interval, "demand": on_demand, "shutdown": metrics.shutdown_metrics}[occasion]()
    seconds = time.monotonic() - begin
    with open("/proc/self/status") as status:  # `ru_maxrss` is at least the parent's
        peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
    print(json.dumps({"seconds": seconds, "peak": peak, "failures": metrics.export_failures}))
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.fixture(scope="module")
def servers() -> Iterator:
    """Run failing servers."""
    with failing_servers() as found:
        yield found


@pytest.fixture
def receivers() -> Iterator:
    """Run receivers that work."""
    found = [HttpReceiver(), GrpcReceiver()]
    for receiver in found:
        receiver.start()
    yield found
    for receiver in found:
        receiver.stop()


def urls_of(ports: dict[str, int]) -> dict[tuple[str, str], str]:
    """Return the URL of each endpoint for each kind of server."""
    urls = {}
    for name, template in ENDPOINTS.items():
        for kind, port in ports.items():
            url = template.format(port=port, kind=kind)
            if kind == "self-signed":
                url = url.replace("+http:", "+https:").replace("+grpc:", "+grpcs:")
            if name != "statsd" or kind == "refusing":  # UDP has no connections
                urls[name, kind] = url
    return urls


def failed(stderr: str) -> set[str]:
    """Return the names of the outputs that the log reports."""
    return set(re.findall(r"event='(?:metrics not exported|snapshot not written)' output='([^']*)'", stderr))


@pytest.mark.heavy
@pytest.mark.parametrize("occasion", ["interval", "demand", "shutdown", "sigterm", "exit"])
def test_no_output_delays_another_or_the_end_of_the_process(occasion, servers, receivers, tmp_path):
    """All outputs and all ways to fail at once: files are written, failures named, and it ends in time."""
    ports, trap = servers
    urls = urls_of(ports)
    file, folder = tmp_path / "metrics.json", tmp_path / "runs"
    good = [f"otlp+{receiver.protocol}://127.0.0.1:{receiver.port}" for receiver in receivers]
    every = [*urls.values(), *good, f"snapshot:{folder}", f"file:{file}"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, occasion, str(SECONDS), json.dumps(every)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        begin = time.monotonic()
        if occasion == "sigterm":
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - begin
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == (-signal.SIGTERM if occasion == "sigterm" else 0), err
    assert seconds < SECONDS + SLACK_SECONDS + 2 * (occasion == "interval")
    if occasion != "demand":
        assert len(list(folder.glob("*.json"))) >= 1
    assert '"orders"' in file.read_text()
    assert all("orders" in receiver.script.metrics() for receiver in receivers)
    names = failed(err)
    assert "hanging" in names
    for (name, kind), url in urls.items():
        found = any(str(ports[kind]) in each and each.startswith(url[:8]) for each in names)
        assert found or (name, kind) in SUCCESSES, f"{name} with a {kind} server is not reported"
        assert not found or (name, kind) not in SUCCESSES or name == "graphite", (name, kind)
    assert "geheim" not in out + err
    assert trap.connections == 0
    if out:
        report = json.loads(out)
        assert set(report["failures"]) == names
        assert report["peak"] < MAX_GROWTH_BYTES + 100e6


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ENDPOINTS) - {"otlp-grpc"}))  # gRPC has a resolver of its own
def test_an_export_ends_in_time_though_the_name_lookup_hangs(name, monkeypatch):
    """Also if it is called directly, in a thread that cannot be abandoned."""
    host = f"{name}.invalid"  # lookups of the same name are shared
    url = ENDPOINTS[name].format(port=1, kind="a").replace("127.0.0.1", host)
    output = make_endpoint(f"{url}{'&' if '?' in url else '?'}timeout=0.2")[1]
    go_on, look_up, lookups = threading.Event(), socket.getaddrinfo, []

    def hang(name, *arguments, **named):
        if name == host and not named.get("flags"):
            lookups.append(name)
            go_on.wait(60)
        return look_up(name, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    begin = time.monotonic()
    for _ in range(2):
        with pytest.raises(OutputError, match=r"within 0\.2 seconds"):
            output.export(metrics)
    assert time.monotonic() - begin < 10
    assert len(lookups) == 1  # it is not repeated
    go_on.set()


@pytest.mark.slow
@pytest.mark.parametrize("url", ["otlp+http://127.0.0.1:{}", "otlp+grpc://127.0.0.1:{}"])
def test_a_missing_receiver_does_not_delay_the_exit(url, tmp_path):
    """The final export is not retried, also if an export at the interval waits for its retry."""
    with failing_servers() as (ports, _):
        program = (
            "import sys, time\n"
            "from metrics_framework import MetricsSystem\n"
            "metrics = MetricsSystem(shutdown_on_exit=True)\n"
            "metrics.collector.increment('orders')\n"
            "metrics.initialize_metrics({'export_endpoints': [sys.argv[1]], 'collection_interval': 0.1})\n"
            "time.sleep(0.7)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, url.format(ports["refusing"])],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
            env={**os.environ, "OTEL_SDK_DISABLED": "false"},
        )
    assert done.returncode == 0
    assert "Connection refused" in done.stderr
    assert "no answer within" not in done.stderr  # retries would go on until the time limit
    assert failed(done.stderr) == {url.format(ports["refusing"])}
