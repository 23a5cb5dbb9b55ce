"""A webhook: what it is sent, and what comes of its answers."""

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
    """Return a server that takes requests."""
    with answering() as server:
        yield server


def export(hook, rest, user=""):
    """Export a counter; return what came."""
    system = MetricsSystem()
    system.collector.increment("orders")
    make_endpoint(f"webhook+{hook.url.replace('//', f'//{user}')}{rest}")[1].export(system)
    return hook.taken[-1]


def test_a_webhook_is_posted_all_series_as_json(hook):
    """Path and query arrive as they were given, less our own options."""
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
    """User and password, a token, or a header of one's own; none of it is in the path."""
    taken = export(hook, f"/{option}", user)
    assert taken.headers[header] == value
    assert taken.path == "/"


@pytest.mark.parametrize(("status", "kind"), [(400, RefusedError), (401, RefusedError), (503, OutputError)])
def test_an_answer_that_is_no_success_is_an_error(hook, status, kind):
    """The message has the server's words, and nothing of the path."""
    hook.status, hook.text = status, "go away"
    with pytest.raises(
        kind,
        match=rf"cannot post to webhook\+http://.*/…: HTTP status {status}: go away",
    ) as caught:
        export(hook, "/hidden")
    assert "hidden" not in str(caught.value)
    assert isinstance(caught.value, RefusedError) == (kind is RefusedError)


def test_https_is_checked_by_the_file_that_is_named(tmp_path):
    """A server of one's own authority is trusted by its file, and by nothing else."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with answering(context) as hook:
        assert export(hook, f"/?cafile={tmp_path}/ca.pem").path == "/"
        with pytest.raises(OutputError, match="certificate"):
            export(hook, "/")
