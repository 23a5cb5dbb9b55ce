"""The order service with svcs, run as its reader would run it."""

from __future__ import annotations

import importlib.util

import pytest


# svcs imports every web framework that is installed, with whatever they warn of: that is for a process of its
# own, so here it is only looked for.
@pytest.mark.skipif(importlib.util.find_spec("svcs") is None, reason="svcs is not installed")
def test_the_table_and_the_snapshot_agree(run_service, check_service):
    """200 orders are placed or refused, and every number that is printed is in the snapshot too."""
    check_service(*run_service("service_svcs.py"))
