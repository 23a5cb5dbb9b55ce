"""The package offers collectors and endpoints, and endpoints cost nothing until they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metrics_adapters.prometheus


def test_every_declared_name_exists():
    """Each name in `__all__` can be imported, and the list reads like an index."""
    names = metrics_adapters.prometheus.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(metrics_adapters.prometheus, name).__name__ == name


def test_a_name_that_is_not_there_is_an_error():
    """As of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'make_tea'"):
        _ = metrics_adapters.prometheus.make_tea


def test_who_only_collects_imports_no_endpoint():
    """Neither asyncio nor an endpoint is loaded with the collector."""
    code = "import sys, metrics_adapters.prometheus; print([*map(sys.modules.get, sys.argv[1:])])"
    modules = ["asyncio", "metrics_adapters.http.server", "metrics_adapters.http.scrape"]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == "[None, None, None]\n"
