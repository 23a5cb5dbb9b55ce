"""A service that a web server runs writes its outputs on SIGTERM, whatever its endpoints do."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.metrics_adapters.export.failing_servers import failing_servers
from tests.servers.receivers import free_ports

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM and no gunicorn"),
]

SLACK_SECONDS = 3.0
"""How much longer a busy machine may take."""

SERVICE = """
import json
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from metrics_framework import MetricsSystem


def make(**options):
    metrics = MetricsSystem(**options)
    metrics.initialize_metrics({"export_endpoints": json.loads(Path("endpoints.json").read_text())})
    return metrics


def answer(request):
    current.collector.increment("requests")
    return PlainTextResponse("hello")


current = None
"""

UVICORN_LIFESPAN = """
@asynccontextmanager
async def lifespan(app):
    global current
    async with make() as current:
        yield

app = Starlette(routes=[Route("/", answer)], lifespan=lifespan)
"""

UVICORN_SIGTERM = """
current = make(shutdown_on_sigterm=True)
app = Starlette(routes=[Route("/", answer)])
"""

UVICORN_RUN = """
import sys, uvicorn
current = make(shutdown_on_sigterm=True)
app = Starlette(routes=[Route("/", answer)])
uvicorn.run(app, port=int(sys.argv[1]))
"""

GUNICORN = """
current = make(shutdown_on_exit=True)
def app(environ, start_response):
    current.collector.increment("requests")
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


@pytest.mark.parametrize(
    ("service", "command"),
    [
        (UVICORN_LIFESPAN, "-m uvicorn service:app --port {port}"),
        (UVICORN_SIGTERM, "-m uvicorn service:app --port {port}"),
        (UVICORN_RUN, "service.py {port}"),
        (GUNICORN, "-m gunicorn service:app --workers 1 --no-control-socket --bind 127.0.0.1:{port}"),
        (
            GUNICORN.replace("exit", "sigterm"),
            "-m gunicorn service:app --workers 1 --no-control-socket --bind 127.0.0.1:{port}",
        ),
    ],
    ids=["uvicorn-lifespan", "uvicorn-sigterm", "uvicorn-run", "gunicorn-exit", "gunicorn-sigterm"],
)
def test_a_served_application_writes_its_files_on_sigterm(service, command, tmp_path):
    """Beside two dead endpoints, the file and the snapshot have all requests, within five seconds."""
    (tmp_path / "service.py").write_text(SERVICE + service)
    (port,) = free_ports(socket.SOCK_STREAM, 1)
    with failing_servers() as (ports, _):
        endpoints = [
            f"otlp+http://127.0.0.1:{ports['slow-headers']}",
            f"webhook+http://127.0.0.1:{ports['silent']}/hook",
            "file:metrics.json",
            "snapshot:runs",
        ]
        (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
        log = tmp_path / "log.txt"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *command.format(port=port).split()],
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            request(port, process, log)
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            seconds = time.monotonic() - begin
        finally:
            process.kill()
            process.wait()
    assert seconds < 5.0 + SLACK_SECONDS, log.read_text()
    values = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert ("requests", 1) in [(value["name"], value["value"]) for value in values], log.read_text()
    assert list((tmp_path / "runs").glob("*.json"))
    assert log.read_text().count("metrics not exported") == 2
    assert "Traceback" not in log.read_text()


def request(port: int, process: subprocess.Popen, log: Path) -> None:
    """Send one request, once the server accepts it."""
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hello"
            connection.close()
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())
