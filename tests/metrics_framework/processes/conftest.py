"""Each test begins and ends outside of any group of workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from metrics_framework.processes.group import KEY_VARIABLE


@pytest.fixture(autouse=True)
def no_group() -> Iterator[None]:
    """Remove the key of a group from the environment, which programs of the test would inherit."""
    os.environ.pop(KEY_VARIABLE, None)
    yield
    os.environ.pop(KEY_VARIABLE, None)
