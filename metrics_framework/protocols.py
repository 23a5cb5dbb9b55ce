"""The contracts: applications depend on these Protocols, and adapters implement them.

Read this page first. An application takes the Protocols as arguments, and an adapter implements them; nothing
else connects the two. They are frozen: names, parameters, defaults and return types do not change, so that
an adapter written today works with every later release. `metrics_framework.capabilities` has the optional
abilities of adapters.

Names are non-empty strings. Tags map ``str`` to ``str`` and choose a series within a metric. Metadata
describes one event and never becomes a tag. Times are milliseconds unless a unit says otherwise.

Every method is thread-safe, and may be called in a signal handler or a ``__del__``: it never blocks and loses
no record. Bad input raises an `InvalidInputError` that quotes the value, and changes nothing; this includes
timers and trackers. An adapter leaves out values that its backend does not know. ``docs/adapters.md`` shows
an adapter, and `metrics_framework.testing.conformance` tests one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult


@runtime_checkable
class MetricCollector(Protocol):
    """Records numbers.

    Application code, gauge callbacks, the recording of resources and the instrumentation rely on it.
    """

    @abstractmethod
    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter.

        Args:
            name: The metric's name.
            value: The amount: finite and not negative.
            tags: The series of the metric.

        Raises:
            InvalidInputError: If an argument is invalid, or the name is a metric of another type.
        """
        ...

    @abstractmethod
    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge.

        Args:
            name: The metric's name.
            value: The new value: finite. ``True`` and ``False`` are 1 and 0.
            tags: The series of the metric.

        Raises:
            InvalidInputError: If an argument is invalid, or the name is a metric of another type.
        """
        ...

    @abstractmethod
    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add one value to a distribution.

        Args:
            name: The metric's name.
            value: The value: finite, of either sign.
            tags: The series of the metric.

        Raises:
            InvalidInputError: If an argument is invalid, or the name is a metric of another type.
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
            duration: The duration: finite and not negative.
            unit: The unit of ``duration``: seconds, milliseconds or microseconds.
            tags: The series of the metric.

        Raises:
            InvalidInputError: If an argument is invalid, or the name is a metric of another type.
        """
        ...

    @abstractmethod
    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter, or to a gauge if the name is one.

        Args:
            name: The metric's name; a new name becomes a counter.
            tags: The series of the metric.

        Raises:
            InvalidInputError: If the name is a histogram or a timer.
        """
        ...

    @abstractmethod
    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Subtract 1 from a gauge.

        Args:
            name: The metric's name; a new name becomes a gauge.
            tags: The series of the metric.

        Raises:
            InvalidInputError: If the name is not a gauge: a counter never decreases.
        """
        ...


@runtime_checkable
class PerformanceTimer(Protocol):
    """Measures how long operations take.

    Application code, `MetricsSystem.measure` and snapshots rely on it.
    """

    @abstractmethod
    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing an operation.

        Args:
            operation_name: The operation.
            metadata: Details of this event; the result contains them.

        Returns:
            A timer id for `stop_timer`.
        """
        ...

    @abstractmethod
    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration.

        Args:
            timer_id: The id that `start_timer` returned.
            success: Whether the operation succeeded.

        Returns:
            The duration in milliseconds, with the metadata from `start_timer`.

        Raises:
            UnknownTimerError: If no running timer has that id.
        """
        ...

    @abstractmethod
    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        """Call ``operation`` and record its duration.

        If ``operation`` raises, the duration is recorded as a failure and the exception propagates.

        Args:
            operation_name: The operation.
            operation: A callable without arguments.
            metadata: Details of this event.

        Returns:
            The duration in milliseconds; ``metadata["result"]`` is the return value of ``operation``.

        Raises:
            InvalidInputError: If an argument is invalid; ``operation`` was not called.
        """
        ...

    @abstractmethod
    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        """Summarize an operation's durations.

        Args:
            operation_name: The operation.

        Returns:
            ``count``, ``sum``, ``avg``, ``min``, ``max``, ``stddev``, ``p50``, ``p90``, ``p95``, ``p99``
            in milliseconds, ``rate`` per second, and the ``seconds`` that the summary covers. ``failures`` is
            the number of durations that ended in failure; a backend that cannot know it leaves it out.

        Raises:
            UnknownMetricError: If the operation was never timed.
        """
        ...


@runtime_checkable
class SuccessFailureTracker(Protocol):
    """Counts the successes and failures of operations.

    Application code, `MetricsSystem.measure`, health checks and snapshots rely on it.
    """

    @abstractmethod
    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        """Count one success of an operation.

        Args:
            operation: The operation.
            metadata: Details of this event.
        """
        ...

    @abstractmethod
    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        """Count one failure of an operation.

        Args:
            operation: The operation.
            error_type: The type of the failure: a non-empty string.
            metadata: Details of this event.
        """
        ...

    @abstractmethod
    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        """Return the success rate of an operation.

        Args:
            operation: The operation.
            time_window: The length of the window up to now; ``None`` is since the start.

        Returns:
            A share from 0.0 to 1.0; 1.0 if the operation has no events in the window.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If the window is not positive, or the backend keeps no windows.
        """
        ...

    @abstractmethod
    def get_failure_breakdown(self, operation: str, time_window: timedelta | None = None) -> dict[str, int]:
        """Count the failures of an operation by error type.

        Args:
            operation: The operation.
            time_window: The length of the window up to now; ``None`` is since the start.

        Returns:
            The number of failures of each error type, without zeros.

        Raises:
            UnknownMetricError: If the operation was never tracked.
            InvalidInputError: If the window is not positive, or the backend keeps no windows.
        """
        ...


@runtime_checkable
class ResourceMonitor(Protocol):
    """Reads the resource usage of the machine and of the process.

    Health checks, snapshots, dashboards and the recording of resources rely on it.
    """

    @abstractmethod
    def get_memory_usage(self) -> dict[str, float]:
        """Return the memory usage of the machine and of the process.

        ``used``, ``available``, ``total``, ``process_rss`` and ``process_peak_rss`` are bytes. ``percent`` is
        the used share of ``total``.
        """
        ...

    @abstractmethod
    def get_cpu_usage(self) -> dict[str, float]:
        """Return ``percent``, ``process_percent``, ``load_1m``, ``load_5m``, ``load_15m`` and ``count``.

        ``process_percent`` is 100 for each fully used core. ``percent`` is of the whole machine.
        """
        ...

    @abstractmethod
    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return ``used``, ``free`` and ``total`` bytes and ``percent`` of the disk that has ``path``."""
        ...

    @abstractmethod
    def get_network_stats(self) -> dict[str, int]:
        """Return the traffic of all network interfaces since they came up.

        Keys:
        ``bytes_sent``, ``bytes_received``, ``packets_sent``, ``packets_received``, ``errors_in``,
        ``errors_out``, ``drops_in``, ``drops_out``.
        """
        ...

    @abstractmethod
    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Record memory, CPU, disks and network every ``interval`` seconds. Repeated calls do nothing."""
        ...

    @abstractmethod
    def stop_resource_monitoring(self) -> None:
        """Stop recording in the background. Repeated calls do nothing."""
        ...


@runtime_checkable
class MetricsAggregator(Protocol):
    """Summarizes and exports the recorded metrics.

    Snapshots, dashboards, exports, streams and health checks rely on it.
    """

    @abstractmethod
    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric over all of its series.

        Args:
            metric_name: The metric.
            time_window: The length of the window up to now; ``None`` is since the start.

        Returns:
            Always ``count`` and ``seconds`` (the time that the summary covers). A counter adds ``sum``,
            ``rate`` and ``total`` (since the start); a gauge ``last``, ``avg``, ``min``, ``max``; a
            histogram or timer ``sum``, ``rate``, ``avg``, ``min``, ``max``, ``stddev``, ``p50``, ``p90``,
            ``p95``, ``p99``. Averages, extremes and quantiles are left out if the window has no records.
            ``rate`` is a counter's ``sum``, or a distribution's ``count``, per second. A quantile is the
            nearest rank: a recorded value, within the error of the backend.

        Raises:
            UnknownMetricError: If the metric was never recorded.
            InvalidInputError: If the window is not positive, or the backend keeps no windows.
        """
        ...

    @abstractmethod
    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return every series that has all the tags of ``tag_filter``. An empty filter matches all series.

        Operations are listed beside metrics, which may have the same names, with ``metadata["operation"]``
        set to ``True``: durations as a timer, outcomes as a rate with ``count`` and ``success_rate`` in its
        metadata. Health checks and dashboards find operations by these keys.
        """
        ...

    @abstractmethod
    def export_metrics(self, format: str = "json") -> str:
        """Return all series in a text format.

        Args:
            format: The name of a format that the adapter supports.

        Raises:
            InvalidInputError: If the format is unknown; the message lists the supported formats.
        """
        ...

    @abstractmethod
    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return up to ``limit`` series of a type, the largest first. Counters also count as rates."""
        ...


@runtime_checkable
class MetricsSystem(Protocol):
    """All parts behind one object.

    Outputs, HTTP endpoints and the instrumentation rely on it.
    """

    @property
    def collector(self) -> MetricCollector:
        """Records numbers."""
        ...

    @property
    def timer(self) -> PerformanceTimer:
        """Measures durations."""
        ...

    @property
    def tracker(self) -> SuccessFailureTracker:
        """Counts successes and failures."""
        ...

    @property
    def resource_monitor(self) -> ResourceMonitor:
        """Reads resource usage."""
        ...

    @property
    def aggregator(self) -> MetricsAggregator:
        """Summarizes and exports metrics."""
        ...

    @abstractmethod
    def initialize_metrics(self, config: dict[str, Any]) -> None:
        """Apply a configuration.

        Args:
            config: Keys such as ``collection_interval``, ``retention_days`` and ``export_endpoints``.

        Raises:
            ConfigurationError: If a key is unknown or a value is not allowed; no key was applied.
        """
        ...

    @abstractmethod
    def shutdown_metrics(self) -> None:
        """Stop background work and write the final output. Repeated calls do nothing."""
        ...

    @abstractmethod
    def get_system_health(self) -> dict[str, bool | float | int]:
        """Return ``healthy``, ``error_rate`` (0.0 to 1.0) and the readings behind them."""
        ...

    @abstractmethod
    def create_dashboard_data(self, dashboard_type: str = "overview") -> dict[str, Any]:
        """Return the panels of a dashboard as plain data.

        Args:
            dashboard_type: The dashboard.

        Raises:
            InvalidInputError: If the dashboard does not exist; the message lists all dashboards.
        """
        ...


@runtime_checkable
class AsyncMetricsSystem(Protocol):
    """Collects, exports and streams without blocking the event loop. Async services rely on it."""

    @abstractmethod
    async def collect_metrics_async(self) -> None:
        """Read all sources that are read on demand, such as resources and gauge callbacks."""
        ...

    @abstractmethod
    async def export_metrics_async(self, endpoints: list[str]) -> dict[str, bool]:
        """Export to several endpoints; a failure of one does not affect the others.

        Args:
            endpoints: The endpoints.

        Returns:
            Whether the export to each endpoint succeeded.
        """
        ...

    @abstractmethod
    def metrics_stream(self, filters: dict[str, Any] | None = None) -> AsyncIterator[MetricValue]:
        """Yield metrics as they are collected. Implement it as an async generator.

        Args:
            filters: Selects metrics by type, name or tags.
        """
        ...
