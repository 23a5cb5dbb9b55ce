"""The package brings what is asked for, and imports nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metrics_adapters.asgi


def test_every_name_is_there():
    """What the package declares can be imported from it."""
    for name in metrics_adapters.asgi.__all__:
        assert getattr(metrics_adapters.asgi, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Metrics'"):
        _ = metrics_adapters.asgi.Metrics


@pytest.mark.heavy
def test_the_middleware_needs_no_web_framework():
    """Plain ASGI brings neither Starlette nor httpx, trio nor prometheus_client."""
    code = (
        "import sys; from metrics_adapters.asgi import MetricsMiddleware, TaskMetrics, LoopLag;"
        "print({'starlette', 'fastapi', 'httpx', 'trio', 'anyio', 'prometheus_client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
