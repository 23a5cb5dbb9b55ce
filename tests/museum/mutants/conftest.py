"""A mutant is dead at the first test that it fails: the rest is not run, and nothing is waited for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from metrics_framework.testing.conformance import base

base.CALL_TIMEOUT_SECONDS = 2.0

DEAD = pytest.StashKey[set[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip what is left of a dead mutant's tests."""
    if item.cls.__name__ in item.config.stash.setdefault(DEAD, set()):
        pytest.skip("dead")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep in mind which mutants are dead."""
    report = yield
    if report.failed and _is_broken(call.excinfo):
        # Failing like this is no death: it lives on, and is seen to.
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"broken: {call.excinfo.value!r}")
    if report.failed:
        item.config.stash.setdefault(DEAD, set()).add(item.cls.__name__)
    return report


def _is_broken(raised):
    """Say whether a mutant stumbles over our adapters' insides, which are others now."""
    here = Path(raised.traceback[-1].path).parent == Path(__file__).parent
    return here and isinstance(raised.value, (AttributeError, NameError))
