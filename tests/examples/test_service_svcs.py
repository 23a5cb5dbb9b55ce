"""The order service with svcs, run as a reader runs it."""

from __future__ import annotations

import importlib.util

import pytest


# svcs imports every installed web framework, with their warnings. Only the child process imports it.
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("svcs") is None, reason="svcs is not installed")
def test_the_table_and_the_snapshot_agree(run_service, check_service):
    """200 orders are placed or refused, and every printed number is also in the snapshot."""
    check_service(*run_service("service_svcs.py"))
