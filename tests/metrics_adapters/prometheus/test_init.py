"""The package exports collectors and endpoints, and imports endpoints on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metrics_adapters.prometheus


def test_every_declared_name_exists():
    """Each name in `__all__` can be imported, and the list is sorted."""
    names = metrics_adapters.prometheus.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(metrics_adapters.prometheus, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    """The message is that of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'make_tea'"):
        _ = metrics_adapters.prometheus.make_tea


@pytest.mark.slow
def test_importing_the_package_imports_no_endpoint():
    """Neither asyncio nor an endpoint is imported with the collector."""
    code = "import sys, metrics_adapters.prometheus; print([*map(sys.modules.get, sys.argv[1:])])"
    modules = ["asyncio", "metrics_adapters.http.server", "metrics_adapters.http.scrape"]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == "[None, None, None]\n"
