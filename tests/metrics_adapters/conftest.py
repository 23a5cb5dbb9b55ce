"""Fixtures of the endpoint tests."""

from __future__ import annotations

import pytest

from metrics_framework import MetricsSystem
from metrics_framework.streams import publisher
from tests.metrics_adapters.http.clients import RUNNERS


@pytest.fixture(params=RUNNERS)
def run(request):
    """Return a function that runs a coroutine, on each event loop."""
    return RUNNERS[request.param]


@pytest.fixture
def system(clock, monkeypatch):
    """Return a system that publishes a millisecond after a record. It is shut down at the end."""
    monkeypatch.setattr(publisher, "PUBLISH_SECONDS", 0.001)
    with MetricsSystem(clock=clock) as system:
        yield system
