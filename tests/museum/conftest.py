"""Installs the museum: each package stands where pip would have put it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def museum():
    """Put every package of the museum, with what says its name, on the path."""
    packages = [str(folder) for folder in Path(__file__).parent.glob("museum-*")]
    sys.path[:0] = packages
    yield
    for package in packages:
        sys.path.remove(package)
