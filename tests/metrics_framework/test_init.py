"""The public surface is declared, documented and cheap to import."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import types

import pytest

import metrics_framework


def modules_after(statement: str) -> set[str]:
    """Return the names of all modules that are imported after a statement in a new interpreter."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.smoke
def test_every_declared_name_exists():
    """Each name in `__all__` can be imported from the package."""
    assert [name for name in metrics_framework.__all__ if not hasattr(metrics_framework, name)] == []


def test_all_is_sorted_and_has_each_name_once():
    """`__all__` is in order."""
    assert metrics_framework.__all__ == sorted(set(metrics_framework.__all__))


def test_all_is_complete():
    """Every name of the package is declared public, a module, or private."""
    held = {
        name
        for name, value in vars(metrics_framework).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert held | {"Rule", "__version__"} == set(metrics_framework.__all__)


@pytest.mark.parametrize("name", sorted(set(metrics_framework.__all__) - {"__version__"}))
def test_every_public_name_is_documented(name):
    """Each public class and function has a hand-written docstring."""
    value = getattr(metrics_framework, name)
    # A dataclass without a docstring gets its signature for one.
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("name", sorted(set(metrics_framework.__all__) - {"__version__"}))
def test_every_public_method_is_documented(name):
    """Each public method and property of a public class has a docstring."""
    value = getattr(metrics_framework, name)
    if inspect.isclass(value):
        members = {
            member: held
            for member, held in vars(value).items()
            if not member.startswith("_") and (inspect.isroutine(held) or isinstance(held, property))
        }
        assert [member for member, held in members.items() if not inspect.getdoc(held)] == []


@pytest.mark.slow
def test_importing_the_package_loads_no_optional_or_slow_dependency():
    """`import metrics_framework` loads only the modules that recording needs."""
    unwanted = {
        "asyncio",
        "click",
        "metrics_adapters",
        "prometheus_client",
        "psutil",
        "pytest",
        "rich",
        "structlog",
    }
    assert modules_after("import metrics_framework") & unwanted == set()


@pytest.mark.slow
@pytest.mark.smoke
def test_recording_in_memory_loads_no_dependency_but_the_own_adapter():
    """A collector alone needs no psutil, structlog or prometheus_client."""
    loaded = modules_after(
        "from metrics_adapters.in_memory import InMemoryCollector; InMemoryCollector().increment('a')"
    )
    assert loaded & {"click", "prometheus_client", "psutil", "rich", "structlog"} == set()


@pytest.mark.smoke
def test_the_version_is_the_installed_one():
    """`__version__` is that of the distribution."""
    from importlib.metadata import version

    assert metrics_framework.__version__ == version("metrics-framework")
