"""The package brings what is asked for, and imports nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metrics_adapters.asgi


def test_every_name_is_there():
    """What the package declares can be imported from it."""
    assert [name for name in metrics_adapters.asgi.__all__ if not hasattr(metrics_adapters.asgi, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Metrics'"):
        _ = metrics_adapters.asgi.Metrics


def imported(code: str, *modules: str) -> str:
    """Return which of some modules code imports."""
    code = f"import sys; {code}; print({{*{modules!r}}} & set(sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.heavy
def test_the_middleware_needs_no_web_framework():
    """Plain ASGI brings neither Starlette nor httpx, trio nor prometheus_client."""
    code = "from metrics_adapters.asgi import MetricsMiddleware, TaskMetrics, LoopLag"
    modules = ("starlette", "fastapi", "httpx", "trio", "anyio", "prometheus_client")
    assert imported(code, *modules) == "set()"


@pytest.mark.heavy
def test_an_application_is_made_without_a_framework_or_a_server():
    """Neither uvicorn nor Starlette is imported for it."""
    code = (
        "from metrics_framework import MetricsSystem; from metrics_adapters.asgi import make_app;"
        " make_app(MetricsSystem())"
    )
    assert imported(code, "uvicorn", "starlette", "trio", "anyio", "sse_starlette") == "set()"
