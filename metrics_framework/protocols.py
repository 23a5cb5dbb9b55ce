"""The contracts: what code depends on, and what an adapter implements.

Read this page first. An application takes these Protocols as arguments; an adapter provides them; nothing
else connects the two. They are frozen: names, parameters, defaults and return types do not change, so that
an adapter written today works with every later release. What the library offers beyond them lives on the
concrete classes.

Names are strings, and not empty. Tags are ``str`` to ``str`` and choose a series within a metric. Metadata
describes one event and never becomes a tag. Times are milliseconds unless a unit says otherwise.

Bad input is an `InvalidInputError` that quotes it and changes nothing, also of timers and trackers. Any
thread may call any method, also in a signal handler or a ``__del__``: nothing blocks and nothing is lost.
What a backend cannot know it leaves out. ``docs/adapters.md`` shows an adapter, and
`metrics_framework.testing.conformance` tests one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult


@runtime_checkable
class MetricCollector(Protocol):
    """Takes numbers in. Everything that wants to be measured relies on this one."""

    @abstractmethod
    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter.

        Args:
            name: The metric's name.
            value: How much to add: finite and not negative.
            tags: Which series of the metric.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        ...

    @abstractmethod
    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge.

        Args:
            name: The metric's name.
            value: Its value from now on: finite. ``True`` and ``False`` are 1 and 0.
            tags: Which series of the metric.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        ...

    @abstractmethod
    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add one value to a distribution.

        Args:
            name: The metric's name.
            value: The value: finite, of either sign.
            tags: Which series of the metric.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        ...

    @abstractmethod
    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add one duration to a distribution of durations.

        Args:
            name: The metric's name.
            duration: How long: finite and not negative.
            unit: What ``duration`` is counted in: seconds, milliseconds or microseconds.
            tags: Which series of the metric.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is another type of metric.
        """
        ...

    @abstractmethod
    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter; a name that is a gauge goes up by 1.

        Args:
            name: The metric's name; an unknown one becomes a counter.
            tags: Which series of the metric.

        Raises:
            InvalidInputError: If the name is a histogram or a timer.
        """
        ...

    @abstractmethod
    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Take 1 from a gauge.

        Args:
            name: The metric's name; an unknown one becomes a gauge.
            tags: Which series of the metric.

        Raises:
            InvalidInputError: If the name is not a gauge; a counter never goes down.
        """
        ...


@runtime_checkable
class PerformanceTimer(Protocol):
    """Measures how long operations take. Code with a duration to find out relies on this one."""

    @abstractmethod
    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing an operation.

        Args:
            operation_name: What is being timed.
            metadata: What is known about this event; it comes back in the result.

        Returns:
            An id for `stop_timer`.
        """
        ...

    @abstractmethod
    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration.

        Args:
            timer_id: What `start_timer` returned.
            success: Whether the operation succeeded.

        Returns:
            The duration in milliseconds, with the metadata that the timer was started with.

        Raises:
            UnknownTimerError: If no running timer has that id.
        """
        ...

    @abstractmethod
    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record how long it took.

        If it raises, its time is recorded as a failure and the exception goes on unchanged.

        Args:
            operation_name: What is being timed.
            operation: A callable without arguments.
            metadata: What is known about this event.

        Returns:
            The duration in milliseconds; ``metadata["result"]`` is what ``operation`` returned.

        Raises:
            InvalidInputError: If an argument breaks its rule; then ``operation`` was not called.
        """
        ...

    @abstractmethod
    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Summarize an operation's durations.

        Args:
            operation_name: What was timed.

        Returns:
            ``count``, ``sum``, ``avg``, ``min``, ``max``, ``stddev``, ``p50``, ``p90``, ``p95``, ``p99``
            in milliseconds, ``rate`` per second and the ``seconds`` that all of them cover.

        Raises:
            UnknownMetricError: If the operation was never timed.
        """
        ...


@runtime_checkable
class SuccessFailureTracker(Protocol):
    """Counts how operations end. Code with an outcome to report relies on this one."""

    @abstractmethod
    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Count one success of an operation.

        Args:
            operation: What succeeded.
            metadata: What is known about this event.
        """
        ...

    @abstractmethod
    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Count one failure of an operation.

        Args:
            operation: What failed.
            error_type: The kind of failure: a name.
            metadata: What is known about this event.
        """
        ...

    @abstractmethod
    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        """Return the share of an operation's events that succeeded.

        Args:
            operation: Which operation.
            time_window: How far back to look; ``None`` is since the start.

        Returns:
            0.0 to 1.0; 1.0 where a known operation has no events in the window.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If the window is not positive, or the backend keeps none.
        """
        ...

    @abstractmethod
    def get_failure_breakdown(self, operation: str, time_window: timedelta | None = None) -> dict[str, int]:
        """Count an operation's failures by kind.

        Args:
            operation: Which operation.
            time_window: How far back to look; ``None`` is since the start.

        Returns:
            Error type to number of failures, without zeros.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If the window is not positive, or the backend keeps none.
        """
        ...


@runtime_checkable
class ResourceMonitor(Protocol):
    """Reads what the machine and the process use. Health checks and snapshots rely on this one."""

    @abstractmethod
    def get_memory_usage(self) -> dict[str, float]:
        """Return the machine's memory and the process' share of it.

        ``used``, ``available``, ``total``, ``process_rss`` and ``process_peak_rss`` are bytes; ``percent`` is
        of ``total``.
        """
        ...

    @abstractmethod
    def get_cpu_usage(self) -> dict[str, float]:
        """Return ``percent``, ``process_percent``, ``load_1m``, ``load_5m``, ``load_15m`` and ``count``.

        ``process_percent`` counts 100 for each core that is fully used; ``percent`` is of the whole machine.
        """
        ...

    @abstractmethod
    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return ``used``, ``free``, ``total`` in bytes and ``percent`` of the disk that holds ``path``."""
        ...

    @abstractmethod
    def get_network_stats(self) -> dict[str, int]:
        """Return what passed the machine's interfaces since they came up.

        ``bytes_sent``, ``bytes_received``, ``packets_sent``, ``packets_received``, ``errors_in``,
        ``errors_out``, ``drops_in``, ``drops_out``.
        """
        ...

    @abstractmethod
    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Record memory, CPU, disks and network every ``interval`` seconds; a second start does nothing."""
        ...

    @abstractmethod
    def stop_resource_monitoring(self) -> None:
        """Stop reading in the background; a second stop does nothing."""
        ...


@runtime_checkable
class MetricsAggregator(Protocol):
    """Answers questions about what was recorded. Reports, dashboards and snapshots rely on this one."""

    @abstractmethod
    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric over all of its series.

        Args:
            metric_name: Which metric.
            time_window: How far back to look; ``None`` is since the start.

        Returns:
            Always ``count`` and ``seconds`` (what the summary really covers). A counter adds ``sum``,
            ``rate`` and ``total`` (since the start); a gauge ``last``, ``avg``, ``min``, ``max``; a
            histogram or timer ``sum``, ``rate``, ``avg``, ``min``, ``max``, ``stddev``, ``p50``, ``p90``,
            ``p95``, ``p99``. Without records in the window there are no averages, extremes or quantiles.
            ``rate`` is a counter's ``sum``, or a distribution's ``count``, per second. A quantile is the
            nearest rank: a value that was recorded, within the backend's error.

        Raises:
            UnknownMetricError: If the metric was never recorded.
            InvalidInputError: If the window is not positive, or the backend keeps none.
        """
        ...

    @abstractmethod
    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return every series that carries all the tags of ``tag_filter``; an empty filter matches all.

        Operations are listed beside metrics, which may share a name, with ``metadata["operation"]`` true:
        their durations as a timer, their outcomes as a rate whose metadata holds ``count`` and
        ``success_rate``. Health checks and dashboards find operations by these.
        """
        ...

    @abstractmethod
    def export_metrics(self, format: str = "json") -> str:
        """Return everything in one text format.

        Args:
            format: A format's name; each adapter says which ones it knows.

        Raises:
            InvalidInputError: If the format is unknown; the message lists the known ones.
        """
        ...

    @abstractmethod
    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return at most ``limit`` series of one type, the largest first; a rate is also a counter's."""
        ...


@runtime_checkable
class MetricsSystem(Protocol):
    """Everything behind one object. Components that need the full functionality rely on this one."""

    @property
    def collector(self) -> MetricCollector:
        """Takes numbers in."""
        ...

    @property
    def timer(self) -> PerformanceTimer:
        """Measures operations."""
        ...

    @property
    def tracker(self) -> SuccessFailureTracker:
        """Counts how operations end."""
        ...

    @property
    def resource_monitor(self) -> ResourceMonitor:
        """Reads the machine and the process."""
        ...

    @property
    def aggregator(self) -> MetricsAggregator:
        """Answers questions."""
        ...

    @abstractmethod
    def initialize_metrics(self, config: dict[str, Any]) -> None:
        """Apply a configuration.

        Args:
            config: Settings such as ``collection_interval``, ``retention_days``, ``export_endpoints``.

        Raises:
            ConfigurationError: If a key is unknown or a value is not allowed; then nothing was applied.
        """
        ...

    @abstractmethod
    def shutdown_metrics(self) -> None:
        """Stop background work and write what is left to write; called twice, nothing happens."""
        ...

    @abstractmethod
    def get_system_health(self) -> dict[str, bool | float | int]:
        """Return ``healthy``, ``error_rate`` (0.0 to 1.0) and the readings they were judged by."""
        ...

    @abstractmethod
    def create_dashboard_data(self, dashboard_type: str = "overview") -> dict[str, Any]:
        """Return a dashboard's panels as plain data.

        Args:
            dashboard_type: Which dashboard.

        Raises:
            InvalidInputError: If there is no such dashboard; the message lists those there are.
        """
        ...


@runtime_checkable
class AsyncMetricsSystem(Protocol):
    """What a service does without holding up its event loop."""

    @abstractmethod
    async def collect_metrics_async(self) -> None:
        """Read every source that is read on demand, such as the machine's resources."""
        ...

    @abstractmethod
    async def export_metrics_async(self, endpoints: list[str]) -> dict[str, bool]:
        """Export to several endpoints, each on its own.

        Args:
            endpoints: Where to.

        Returns:
            Endpoint to whether the export succeeded.
        """
        ...

    @abstractmethod
    def metrics_stream(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]:
        """Yield metrics as they are collected; implement it as an async generator.

        Args:
            filters: Which metrics: by type, name or tags.
        """
        ...
