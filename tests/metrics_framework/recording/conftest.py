"""The engines, so that a test of the engine interface runs once with each of them."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

import pytest

ENGINES = {
    "pure": "metrics_framework.recording._pure",
    "compiled": "metrics_framework.recording._core",
}


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> ModuleType:
    """Return the module of one engine.

    The compiled one is skipped if it was not built, unless ``METRICS_FRAMEWORK_COMPILED=1`` is set.
    """
    try:
        return importlib.import_module(ENGINES[request.param])
    except ImportError as error:
        if os.environ.get("METRICS_FRAMEWORK_COMPILED") == "1":
            raise
        pytest.skip(f"the compiled engine is not built (`make build` builds it): {error}")


@pytest.fixture(scope="session")
def Distribution(engine: ModuleType) -> Any:
    """Return the class of distributions of one engine."""
    return engine.Distribution
