"""Makes the sample adapters importable, as if pip had installed each package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def sample_packages():
    """Put every sample package, with its metadata, on the path."""
    packages = [str(folder) for folder in Path(__file__).parent.glob("sample-*")]
    sys.path[:0] = packages
    yield
    for package in packages:
        sys.path.remove(package)
