"""The WSGI application conforms to WSGI: alone, mounted, and in the server of the standard library."""

from __future__ import annotations

import gzip
import http.client
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from metrics_adapters.prometheus import make_wsgi_app
from metrics_framework import MetricsSystem


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system that has counted an order."""
    system = MetricsSystem(clock=clock)
    system.collector.increment("orders", {"item": "book"})
    return system


def ask(app, path="/metrics", method="GET", **environ):
    """Return the status, headers and body of a response, after checking it against the specification."""
    environ = {"SCRIPT_NAME": "", "QUERY_STRING": "", "PATH_INFO": path, "REQUEST_METHOD": method, **environ}
    setup_testing_defaults(environ)
    started = []
    response = validator(app)(environ, lambda status, headers: started.append((status, dict(headers))))
    try:
        body = b"".join(response)
    finally:
        response.close()
    return (*started[0], body)


@pytest.mark.parametrize(
    ("script_name", "path", "status"),
    [
        ("", "/metrics", "200 OK"),
        ("", "/metrics/", "200 OK"),
        ("", "/", "200 OK"),
        ("/internal", "/metrics", "200 OK"),
        ("/metrics", "", "200 OK"),
        ("/metrics", "/", "200 OK"),
        ("/metrics", "/other", "404 Not Found"),
        ("", "/favicon.ico", "404 Not Found"),
    ],
)
def test_it_serves_its_path_and_the_root_of_a_mount(metrics, script_name, path, status):
    """Other paths are not found."""
    found, _, body = ask(make_wsgi_app(metrics), path, SCRIPT_NAME=script_name)
    assert found == status
    assert (b'orders_total{item="book"} 1' in body) is (status == "200 OK")


def test_it_respects_the_headers_of_a_request(metrics):
    """The format, the compression and the method are those of the request."""
    app = make_wsgi_app(metrics)
    accept = "application/openmetrics-text;version=1.0.0"
    status, headers, body = ask(app, HTTP_ACCEPT=accept, HTTP_ACCEPT_ENCODING="gzip")
    assert (status, headers["Content-Encoding"]) == ("200 OK", "gzip")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert gzip.decompress(body).endswith(b"# EOF\n")
    assert ask(app, method="HEAD")[::2] == ("200 OK", b"")
    assert ask(app, "/other", method="HEAD")[::2] == ("404 Not Found", b"")
    assert ask(app, method="POST")[0] == "405 Method Not Allowed"


def test_it_requires_credentials(metrics):
    """It shares the code of the server."""
    app = make_wsgi_app(metrics, bearer_token="s3cret")
    status, headers, body = ask(app)
    assert (status, headers["WWW-Authenticate"]) == ("401 Unauthorized", 'Bearer realm="metrics"')
    assert b"orders" not in body
    assert ask(app, HTTP_AUTHORIZATION="Bearer s3cret")[0] == "200 OK"


def test_too_many_concurrent_scrapes_are_unavailable(metrics):
    """A scrape during the only allowed one gets status 503."""
    inner = []

    class Callbacks:
        def collect(self):
            if not inner:
                inner.append(ask(app)[0])

    app = make_wsgi_app(metrics, callbacks=Callbacks(), max_scrapes=1)
    assert ask(app)[0] == "200 OK"
    assert inner == ["503 Service Unavailable"]
    assert ask(app)[0] == "200 OK"


class Quiet(WSGIRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *args):
        """Log nothing."""


def test_a_real_server_serves_it(metrics):
    """A client reads the metrics over a socket to the end."""
    server = make_server("127.0.0.1", 0, make_wsgi_app(metrics), WSGIServer, Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert (response.status, b"orders_total" in response.read()) == (200, True)
        connection.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
