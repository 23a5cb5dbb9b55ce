"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import metrics_adapters
import metrics_framework

# These run when they are imported.
PROGRAMS = ("metrics_framework.__main__", "metrics_adapters.resources.launcher")

MODULES = [
    name
    for package in (metrics_framework, metrics_adapters)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if name not in PROGRAMS
]


def load(name: str) -> ModuleType:
    """Import a module by name."""
    return importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """What a docstring shows is what happens."""
    assert doctest.testmod(load(name)).failed == 0


def test_there_are_examples() -> None:
    """The walk over the modules finds docstrings with examples, so that the test above tests something."""
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(load(name)) if test.examples]
    assert len(examples) >= 5
