"""The webhook endpoint sends JSON, and handles responses."""

from __future__ import annotations

import json
import ssl

import pytest
import trustme

from metrics_framework import MetricsSystem, OutputError, RefusedError
from metrics_framework.export.endpoints import make_endpoint
from tests.metrics_adapters.prometheus.gateways import answering


@pytest.fixture
def hook():
    """Return a server that records requests."""
    with answering() as server:
        yield server


def export(hook, rest, user=""):
    """Export a counter, and return the request."""
    system = MetricsSystem()
    system.collector.increment("orders")
    make_endpoint(f"webhook+{hook.url.replace('//', f'//{user}')}{rest}")[1].export(system)
    return hook.taken[-1]


def test_all_series_are_posted_as_json(hook):
    """Path and query are unchanged, without the options of the endpoint."""
    taken = export(hook, "/a%20b/c?sig=x%26y&timeout=5")
    assert (taken.method, taken.path) == ("POST", "/a%20b/c?sig=x%26y")
    assert taken.headers["Content-Type"] == "application/json"
    assert [metric["name"] for metric in json.loads(taken.body)["metrics"]] == ["orders"]
    assert "Authorization" not in taken.headers


@pytest.mark.parametrize(
    ("user", "option", "header", "value"),
    [
        ("me:w%3Aord@", "", "Authorization", "Basic bWU6dzpvcmQ="),
        (":w%3Aord@", "", "Authorization", "Bearer w:ord"),
        (":w%3Aord@", "?header=X-Api-Key", "X-Api-Key", "w:ord"),
    ],
)
def test_a_secret_is_sent_in_a_header(hook, user, option, header, value):
    """User and password, a token, or a custom header. The path contains no secret."""
    taken = export(hook, f"/{option}", user)
    assert taken.headers[header] == value
    assert taken.path == "/"


@pytest.mark.parametrize(("status", "kind"), [(400, RefusedError), (401, RefusedError), (503, OutputError)])
def test_a_response_other_than_success_is_an_error(hook, status, kind):
    """The message quotes the response, and not the path."""
    hook.status, hook.text = status, "go away"
    with pytest.raises(
        kind,
        match=rf"cannot post to webhook\+http://[^/]*: HTTP status {status}: go away",
    ) as caught:
        export(hook, "/hidden")
    assert "hidden" not in str(caught.value)
    assert isinstance(caught.value, RefusedError) == (kind is RefusedError)


def test_https_is_verified_with_cafile(tmp_path):
    """The certificate of a private authority is trusted only with its file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with answering(context) as hook:
        assert export(hook, f"/?cafile={tmp_path}/ca.pem").path == "/"
        with pytest.raises(OutputError, match="certificate"):
            export(hook, "/")
