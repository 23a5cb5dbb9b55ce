"""A service with several worker processes, for tests, as a WSGI and an ASGI application.

`/work?value=V` records a value and answers with the process id. `/metrics` is scraped. `/numbers` answers
with what a worker knows of all: the count, the sum and the percentiles, as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from metrics_adapters.prometheus import make_asgi_app, make_wsgi_app
from metrics_framework import MetricsSystem

metrics = MetricsSystem(shared=os.environ.get("SHARED_FOLDER", True))
requests = metrics.collector.counter("requests")
values = metrics.collector.histogram("values")
in_flight = metrics.collector.gauge("in_flight")
metrics.collector.record_gauge("in_flight", 0)
_scraped_wsgi, _scraped_asgi = make_wsgi_app(metrics), make_asgi_app(metrics)


def respond(path: str, query: str) -> str:
    """Return the body of a response, after recording what the request asks for."""
    if path == "/work":
        in_flight.increment()
        requests.add()
        values.observe(float(parse_qs(query)["value"][0]))
        in_flight.decrement()
        return str(os.getpid())
    summary: dict[str, Any] = metrics.aggregator.get_metric_summary("values")
    return json.dumps({**summary, "recorded": metrics.get_system_health()["recorded"], "pid": os.getpid()})


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request of a WSGI server."""
    if environ["PATH_INFO"] == "/metrics":
        return _scraped_wsgi(environ, start_response)
    body = respond(environ["PATH_INFO"], environ["QUERY_STRING"]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request of an ASGI server."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/metrics":
        await _scraped_asgi(scope, receive, send)
    else:
        body = respond(scope["path"], scope["query_string"].decode()).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
