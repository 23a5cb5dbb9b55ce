"""The package imports only what a name needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metrics_adapters.asgi


def test_every_public_name_exists():
    """All names of `__all__` can be imported."""
    assert [name for name in metrics_adapters.asgi.__all__ if not hasattr(metrics_adapters.asgi, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Metrics'"):
        _ = metrics_adapters.asgi.Metrics


def imported(code: str, *modules: str) -> str:
    """Return which of some modules a program imports."""
    code = f"import sys; {code}; print({{*{modules!r}}} & set(sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.heavy
def test_the_middleware_imports_no_web_framework():
    """Neither Starlette, httpx, trio nor prometheus_client."""
    code = "from metrics_adapters.asgi import MetricsMiddleware, TaskMetrics, LoopLag"
    modules = ("starlette", "fastapi", "httpx", "trio", "anyio", "prometheus_client")
    assert imported(code, *modules) == "set()"


@pytest.mark.heavy
def test_make_app_imports_no_framework_or_server():
    """Neither uvicorn nor Starlette."""
    code = (
        "from metrics_framework import MetricsSystem; from metrics_adapters.asgi import make_app;"
        " make_app(MetricsSystem())"
    )
    assert imported(code, "uvicorn", "starlette", "trio", "anyio", "sse_starlette") == "set()"
