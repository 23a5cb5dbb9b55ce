"""Whether all is well: the judgement, and the readings that it was made by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from metrics_framework.log import Isolation
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.validation import check_duration, check_range

if TYPE_CHECKING:
    from metrics_framework.recording import Store


@dataclass(frozen=True)
class Thresholds:
    """Up to where a system is healthy, the limits included.

    Attributes:
        error_rate: The share of tracked operations that fail, 0.0 to 1.0.
        memory_percent: How full the machine's memory is, 0 to 100.
        cpu_percent: How busy the machine is, 0 to 100; ``None`` where that is no fault.
        window: How far back the error rate looks; no further than the retention.

    Raises:
        InvalidInputError: If one of them is out of its range.
    """

    error_rate: float = 0.05
    memory_percent: float = 95.0
    cpu_percent: float | None = None
    window: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("threshold error_rate", self.error_rate, 1)
        check_range("threshold memory_percent", self.memory_percent, 100)
        if self.cpu_percent is not None:
            check_range("threshold cpu_percent", self.cpu_percent, 100)
        check_duration("threshold window", self.window)


@dataclass(frozen=True)
class HealthCheck:
    """Reads the parts of a system.

    Attributes:
        thresholds: Up to where all is well.
        monitor: Reads the machine.
        aggregator: Asked for series and outcomes where no store can be.
        store: Where the system keeps its numbers, if the library's own parts do.
        tracked: Where the tracker keeps its outcomes, if it is the library's own.
        isolation: Logs what fails.
    """

    thresholds: Thresholds
    monitor: ResourceMonitor
    aggregator: MetricsAggregator
    store: Store | None
    tracked: Store | None
    isolation: Isolation

    def read(self, uptime_seconds: float, overhead_percent: float) -> dict[str, bool | float | int]:
        """Judge, and say by what; nothing here asks a network, unless a part of someone else's does.

        ``healthy`` is false where a reading is above its threshold, or a part fails to answer: that is logged
        once until it answers again, and its readings are 0.

        Args:
            uptime_seconds: How long the system has been there.
            overhead_percent: CPU time that the thread which collects at an interval has used, in percent of
                one CPU since the start. What a record costs the thread that makes it is not in it.

        Returns:
            ``healthy``; ``error_rate``, the share of tracked operations that failed in the window of the
            thresholds (since the start where the tracker is someone else's); ``uptime_seconds``; ``series``;
            ``recorded``, ``rejected`` and ``overflowed``, numbers of records since the start (0
            where no part is on a `Store`); ``compiled``, whether they are recorded by the compiled engine;
            ``memory_percent`` and ``cpu_percent`` of the machine;
            ``overhead_percent``.
        """
        limits, store = self.thresholds, self.store
        error_rate = self._ask("the outcomes", self._error_rate)
        memory = self._ask("the memory", lambda: float(self.monitor.get_memory_usage().get("percent", 0)))
        cpu = self._ask("the CPU", lambda: float(self.monitor.get_cpu_usage().get("percent", 0)))
        series = self._ask("the series", self._series)
        return {
            "healthy": (
                series is not None
                and _is_within(error_rate, limits.error_rate)
                and _is_within(memory, limits.memory_percent)
                and _is_within(cpu, limits.cpu_percent)
            ),
            "error_rate": error_rate or 0.0,
            "uptime_seconds": uptime_seconds,
            "series": series or 0,
            "recorded": store.recorded if store else 0,
            "rejected": store.rejected if store else 0,
            "overflowed": store.overflowed if store else 0,
            "compiled": store.is_compiled if store else False,
            "memory_percent": memory or 0.0,
            "cpu_percent": cpu or 0.0,
            "overhead_percent": overhead_percent,
        }

    def _ask(self, what: str, question: Callable[[], float]) -> float | None:
        return self.isolation.call("health not read", question, what=what)

    def _series(self) -> int:
        # Counting costs a store nothing; an aggregator works out every summary for it.
        return self.store.series_count if self.store else len(self.aggregator.get_metrics_by_tag({}))

    def _error_rate(self) -> float:
        if self.tracked is not None:
            window = min(self.thresholds.window, self.tracked.retention)
            readings = self.tracked.outcomes_by_operation(window)
            events = sum(reading.count for reading in readings)
            successes = sum(reading.successes for reading in readings)
        else:
            from metrics_framework.dashboard import outcomes  # slow to import

            found = [value.metadata for value in outcomes(self.aggregator)]
            events = sum(outcome["count"] for outcome in found)
            # Rounded to whole events: 1 - 0.95 is a little more than 5 %.
            successes = sum(round(outcome["count"] * outcome["success_rate"]) for outcome in found)
        return (events - successes) / events if events else 0.0


def _is_within(reading: float | None, limit: float | None) -> bool:
    return reading is not None and (limit is None or reading <= limit)


THRESHOLDS = Thresholds()
