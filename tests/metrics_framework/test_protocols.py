"""The contracts are frozen: adapters outside of this repository are written against this table."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from typing_extensions import get_protocol_members, is_protocol

import metrics_framework
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.resources import PsutilMonitor
from metrics_framework import protocols

TAGS = "tags: dict[str, str] | None = None"
METADATA = "metadata: dict[str, Any] | None = None"
WINDOW = "time_window: timedelta | None = None"

METHODS = {
    "MetricCollector": {
        "record_counter": f"(self, name: str, value: int | float = 1, {TAGS}) -> None",
        "record_gauge": f"(self, name: str, value: int | float, {TAGS}) -> None",
        "record_histogram": f"(self, name: str, value: int | float, {TAGS}) -> None",
        "record_timer": (
            "(self, name: str, duration: float, "
            f"unit: MetricUnit = <MetricUnit.MILLISECONDS: 'milliseconds'>, {TAGS}) -> None"
        ),
        "increment": f"(self, name: str, {TAGS}) -> None",
        "decrement": f"(self, name: str, {TAGS}) -> None",
    },
    "PerformanceTimer": {
        "start_timer": f"(self, operation_name: str, {METADATA}) -> str",
        "stop_timer": "(self, timer_id: str, success: bool = True) -> TimingResult",
        "time_operation": (
            f"(self, operation_name: str, operation: Callable[[], Any], {METADATA}) -> TimingResult"
        ),
        "get_timing_stats": "(self, operation_name: str) -> dict[str, float]",
    },
    "SuccessFailureTracker": {
        "record_success": f"(self, operation: str, {METADATA}) -> None",
        "record_failure": f"(self, operation: str, error_type: str, {METADATA}) -> None",
        "get_success_rate": f"(self, operation: str, {WINDOW}) -> float",
        "get_failure_breakdown": f"(self, operation: str, {WINDOW}) -> dict[str, int]",
    },
    "ResourceMonitor": {
        "get_memory_usage": "(self) -> dict[str, float]",
        "get_cpu_usage": "(self) -> dict[str, float]",
        "get_disk_usage": "(self, path: str = '/') -> dict[str, float]",
        "get_network_stats": "(self) -> dict[str, int]",
        "start_resource_monitoring": "(self, interval: float = 60.0) -> None",
        "stop_resource_monitoring": "(self) -> None",
    },
    "MetricsAggregator": {
        "get_metric_summary": f"(self, metric_name: str, {WINDOW}) -> dict[str, float]",
        "get_metrics_by_tag": "(self, tag_filter: dict[str, str]) -> list[MetricValue]",
        "export_metrics": "(self, format: str = 'json') -> str",
        "get_top_metrics": "(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]",
    },
    "MetricsSystem": {
        "initialize_metrics": "(self, config: dict[str, Any]) -> None",
        "shutdown_metrics": "(self) -> None",
        "get_system_health": "(self) -> dict[str, bool | float | int]",
        "create_dashboard_data": "(self, dashboard_type: str = 'overview') -> dict[str, Any]",
    },
    "AsyncMetricsSystem": {
        "collect_metrics_async": "(self) -> None",
        "export_metrics_async": "(self, endpoints: list[str]) -> dict[str, bool]",
        # Declared as what calling an async generator returns, so that `async for` type-checks.
        "metrics_stream": "(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]",
    },
}

COROUTINES = {"collect_metrics_async", "export_metrics_async"}

PARTS = {
    "collector": "MetricCollector",
    "timer": "PerformanceTimer",
    "tracker": "SuccessFailureTracker",
    "resource_monitor": "ResourceMonitor",
    "aggregator": "MetricsAggregator",
}

EVERY_METHOD = [(protocol, method) for protocol, methods in METHODS.items() for method in methods]

IMPLEMENTATIONS = [
    ("MetricCollector", InMemoryCollector),
    ("PerformanceTimer", InMemoryTimer),
    ("SuccessFailureTracker", InMemoryTracker),
    ("ResourceMonitor", PsutilMonitor),
    ("MetricsAggregator", InMemoryAggregator),
    ("MetricsSystem", metrics_framework.MetricsSystem),
    ("AsyncMetricsSystem", metrics_framework.MetricsSystem),
]


def written(function: Any) -> str:
    """Return a signature as in the source, without the modules of its names."""
    signature = str(inspect.signature(function, eval_str=True))
    return re.sub(r"\b(?:datetime|typing|collections\.abc|metrics_framework\.values)\.", "", signature)


def test_there_are_seven_contracts_and_no_other():
    """The module defines exactly the seven Protocols of the table, with 31 methods in all."""
    defined = {
        name
        for name, value in vars(protocols).items()
        if inspect.isclass(value) and value.__module__ == protocols.__name__ and is_protocol(value)
    }
    assert defined == METHODS.keys()
    assert len(EVERY_METHOD) == 31


@pytest.mark.parametrize("name", METHODS)
def test_members_are_those_of_the_contract(name):
    """A Protocol requires exactly the methods of the table; the system also requires its five parts."""
    expected = METHODS[name].keys() | (PARTS.keys() if name == "MetricsSystem" else set())
    assert get_protocol_members(getattr(protocols, name)) == expected


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_signatures_are_those_of_the_contract(name, method):
    """Names, order, types and defaults of all parameters, and return types, never change."""
    assert written(getattr(getattr(protocols, name), method)) == METHODS[name][method]


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_methods_are_abstract_and_documented(name, method):
    """A subclass of a Protocol must implement each method."""
    function = getattr(getattr(protocols, name), method)
    assert function.__isabstractmethod__
    assert function.__doc__


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_only_collecting_and_exporting_are_coroutines(name, method):
    """All other methods, including the stream, are plain calls."""
    assert inspect.iscoroutinefunction(getattr(getattr(protocols, name), method)) == (method in COROUTINES)


@pytest.mark.parametrize(("part", "protocol"), PARTS.items())
def test_parts_of_a_system_are_read_only_properties(part, protocol):
    """A part has no setter, so that a class may have a narrower type."""
    declared = inspect.getattr_static(protocols.MetricsSystem, part)
    assert isinstance(declared, property)
    assert declared.fset is None
    assert written(declared.fget) == f"(self) -> metrics_framework.protocols.{protocol}"
    assert declared.__doc__


@pytest.mark.parametrize(
    ("name", "method", "adapter"),
    [(name, method, adapter) for name, adapter in IMPLEMENTATIONS for method in METHODS[name]],
)
def test_our_implementations_accept_the_contracts_arguments(name, method, adapter):
    """Their additional arguments are optional."""
    contract = inspect.signature(getattr(getattr(protocols, name), method), eval_str=True)
    try:
        signature = inspect.signature(getattr(adapter, method), eval_str=True)
    except ValueError:
        pytest.skip("a compiled method cannot show an enumeration's member as a default")
    ours = list(signature.parameters.values())[1:]
    expected = list(contract.parameters.values())[1:]
    shared, more = ours[: len(expected)], ours[len(expected) :]
    assert [(each.name, each.default, each.kind) for each in shared] == [
        (each.name, each.default, each.kind) for each in expected
    ]
    assert all(each.kind is each.KEYWORD_ONLY and each.default is None for each in more)


def test_a_hand_written_adapter_is_recognized_without_inheriting():
    """`isinstance` with a Protocol checks methods, not base classes."""

    class Tracker:
        def record_success(self, operation, metadata=None): ...
        def record_failure(self, operation, error_type, metadata=None): ...
        def get_success_rate(self, operation, time_window=None): ...
        def get_failure_breakdown(self, operation, time_window=None): ...

    assert isinstance(Tracker(), protocols.SuccessFailureTracker)
    assert not isinstance(Tracker(), protocols.MetricCollector)
