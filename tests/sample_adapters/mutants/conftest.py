"""Skips the remaining tests of a mutant after its first failure, and shortens time-outs."""

from __future__ import annotations

from pathlib import Path

import pytest

from metrics_framework.testing.conformance import base

base.CALL_TIMEOUT_SECONDS = 2.0

DEAD = pytest.StashKey[set[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip the remaining tests of a dead mutant."""
    if item.cls.__name__ in item.config.stash.setdefault(DEAD, set()):
        pytest.skip("dead")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remember dead mutants."""
    report = yield
    if report.failed and _is_broken(call.excinfo):
        # The mutant itself is broken, so the kit has not found it.
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"broken: {call.excinfo.value!r}")
    if report.failed:
        item.config.stash.setdefault(DEAD, set()).add(item.cls.__name__)
    return report


def _is_broken(raised):
    """Return whether a mutant fails because it uses internals of our adapters that have changed."""
    here = Path(raised.traceback[-1].path).parent == Path(__file__).parent
    return here and isinstance(raised.value, (AttributeError, NameError))
