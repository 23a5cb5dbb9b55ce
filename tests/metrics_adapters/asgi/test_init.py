"""What the package offers is declared, and costs no package that only a server needs."""

from __future__ import annotations

import subprocess
import sys

import metrics_adapters.asgi


def test_every_declared_name_exists():
    """Each name in `__all__` can be imported from the package."""
    assert [name for name in metrics_adapters.asgi.__all__ if not hasattr(metrics_adapters.asgi, name)] == []


def test_an_application_is_made_without_a_framework_or_a_server():
    """Neither uvicorn nor starlette is imported for it."""
    code = (
        "import sys; from metrics_framework import MetricsSystem\n"
        "from metrics_adapters.asgi import make_app\n"
        "make_app(MetricsSystem())\n"
        "assert not {'uvicorn', 'starlette', 'trio', 'anyio', 'sse_starlette'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
