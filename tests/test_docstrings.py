"""The examples in docstrings run and print what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import metrics_adapters
import metrics_framework

# These run a program when they are imported.
PROGRAMS = ("metrics_framework.__main__", "metrics_adapters.resources.launcher")

MODULES = [
    name
    for package in (metrics_framework, metrics_adapters)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if name not in PROGRAMS
]


@pytest.mark.slow
def test_examples_run() -> None:
    """The examples of every docstring print what they show. Doctest prints the ones that do not."""
    results = {name: doctest.testmod(importlib.import_module(name)) for name in MODULES}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) >= 10
