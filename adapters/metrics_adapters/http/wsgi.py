"""The scrape endpoint as a WSGI application, for Flask, Django, gunicorn and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http.scrape import MAX_SCRAPES, PATH, TIMEOUT, Answer, Endpoint, Request
from metrics_adapters.prometheus.expositions import Exposable
from metrics_framework.capabilities import Callbacks

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def make_wsgi_app(
    metrics: Exposable,
    *,
    registry: CollectorRegistry | None = None,
    callbacks: Callbacks | None = None,
    bearer_token: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    path: str = PATH,
    max_scrapes: int = MAX_SCRAPES,
    timeout: float = TIMEOUT,
) -> WSGIApp:
    """Return an application that answers a scrape at ``path``, and where it is mounted.

    Args:
        metrics: What is exposed: a `MetricsSystem`, a collector, a `Store` or an `Exposition`.
        registry: A prometheus_client registry whose metrics are appended.
        callbacks: What is called before each scrape; ``metrics.callbacks`` by default, where there are any.
        bearer_token: What a request has to bear, if anything.
        basic_auth: User and password that a request has to give, if any.
        path: Where it answers beside the root of a mount.
        max_scrapes: How many scrapes are made at the same time; others get the status 503.
        timeout: How many seconds one may take. Callbacks and ``registry`` are waited for half of it.

    Raises:
        InvalidInputError: If an argument is not what it has to be.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> app = make_wsgi_app(MetricsSystem())
    """
    endpoint = Endpoint(
        metrics,
        registry=registry,
        callbacks=callbacks,
        bearer_token=bearer_token,
        basic_auth=basic_auth,
        path=path,
        max_scrapes=max_scrapes,
        timeout=timeout,
    )

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(
            environ["REQUEST_METHOD"],
            environ.get("HTTP_AUTHORIZATION"),
            environ.get("HTTP_ACCEPT"),
            environ.get("HTTP_ACCEPT_ENCODING"),
            environ.get("HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"),
        )
        # What PATH_INFO says is without the path of a mount; at the mount itself it says nothing.
        admitted = endpoint.admit(request, environ.get("PATH_INFO", "").rstrip("/") or path)
        if isinstance(admitted, Answer):
            answer = admitted
        else:
            with admitted:
                answer = admitted.run()
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.headers)
        return [] if request.method == "HEAD" else answer.body

    return app
