"""The scrape endpoint as a WSGI application, for Flask, Django, gunicorn and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Unpack

from metrics_adapters.http.options import EndpointOptions
from metrics_adapters.http.scrape import Endpoint, EndpointResponse, ScrapeRequest
from metrics_adapters.http.types import WSGIApp
from metrics_adapters.prometheus.targets import Target


def make_wsgi_app(metrics: Target, **options: Unpack[EndpointOptions]) -> WSGIApp:
    """Return a WSGI application that serves the metrics at ``path`` and at the root of a mount.

    Args:
        metrics: The metrics to expose: a `MetricsSystem`, a collector, a `Store` or an `Exposition`.
        **options: ``registry``, ``callbacks``, ``bearer_token``, ``basic_auth``, ``path``, ``max_scrapes``
            and ``timeout``: see `EndpointOptions`. The WSGI server limits the time that a client has to read.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> app = make_wsgi_app(MetricsSystem())
    """
    endpoint = Endpoint(metrics, **options)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = ScrapeRequest(
            environ["REQUEST_METHOD"],
            environ.get("HTTP_AUTHORIZATION"),
            environ.get("HTTP_ACCEPT"),
            environ.get("HTTP_ACCEPT_ENCODING"),
            environ.get("HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"),
            environ.get("QUERY_STRING", ""),
        )
        # PATH_INFO does not contain the path of the mount; at the root of the mount it is empty.
        admitted = endpoint.admit(request, environ.get("PATH_INFO", "").rstrip("/") or endpoint.path)
        if isinstance(admitted, EndpointResponse):
            response = admitted
        else:
            with admitted:
                response = admitted.run()
        start_response(f"{response.status.value} {response.status.phrase}", response.headers)
        return [] if request.method == "HEAD" else response.body

    return app
