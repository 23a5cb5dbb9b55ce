"""The order service in plain asyncio, run as its reader would run it."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullCollector, NullTimer, NullTracker
from metrics_framework.recording import Store


def test_the_table_and_the_snapshot_agree(run_service, check_service):
    """200 orders are placed or refused, and every number that is printed is in the snapshot too."""
    check_service(*run_service("service_asyncio.py"))


@pytest.fixture
def orders(examples):
    """Return the module that the examples share."""
    return importlib.import_module("orders")


def test_the_service_takes_whatever_fits(orders):
    """With adapters that keep nothing it works as well: it knows the Protocols alone."""
    service = orders.OrderService({"book": 3}, NullCollector(), NullTimer(), NullTracker())
    assert asyncio.run(service.place("book", 2)) == 1


def test_a_refused_order_is_counted_and_changes_nothing(orders, clock):
    """It raises, is a failure of its kind, and the stock is what it was."""
    store, stock = Store(clock), {"book": 1}
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    service = orders.OrderService(stock, InMemoryCollector(store), timer, tracker)
    for item in ("book", "unicorn"):
        with pytest.raises(orders.OutOfStock, match=item):
            asyncio.run(service.place(item, 2))
    assert tracker.get_failure_breakdown("order.place") == {"OutOfStock": 2}
    assert timer.get_timing_stats("order.place")["count"] == 2
    assert stock == {"book": 1}
    assert store.readings() == []
