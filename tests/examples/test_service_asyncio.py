"""The order service in plain asyncio, run as a reader runs it."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullCollector, NullTimer, NullTracker
from metrics_framework.recording import Store


@pytest.mark.slow
def test_the_table_and_the_snapshot_agree(run_service, check_service):
    """200 orders are placed or refused, and every printed number is also in the snapshot."""
    check_service(*run_service("service_asyncio.py"))


@pytest.fixture
def orders(examples):
    """Return the module that the examples share."""
    return importlib.import_module("orders")


def test_the_service_works_with_other_adapters(orders):
    """It works with adapters that keep nothing, because it depends on Protocols only."""
    service = orders.OrderService({"book": 3}, NullCollector(), NullTimer(), NullTracker())
    assert asyncio.run(service.place("book", 2)) == 1


def test_a_refused_order_is_counted_and_changes_nothing(orders, clock):
    """It raises, counts as a failure of its type, and leaves the stock unchanged."""
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
