"""The recording engine: the numeric part of recording, compiled or in pure Python.

This module selects one of two implementations and exports its names. Nothing else in the library imports
``_core`` or ``_pure``.

The compiled engine is used if it was built. Two environment variables change that, read at import:

- ``METRICS_FRAMEWORK_PURE=1`` selects the pure-Python engine;
- ``METRICS_FRAMEWORK_COMPILED=1`` makes a missing compiled engine an error.

Attributes:
    ENGINE: ``"compiled"`` or ``"pure"``.
    ENGINE_REASON: Why this one was selected.
    PageReader: Reads the page that another process shares. ``None`` with the pure engine, which has no pages.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

LAYOUT = 3
"""The version of the interface of the engines. The library rejects a build with another version."""

_NAMES = (
    "RECENT_NS",
    "Core",
    "CounterAggregate",
    "CounterSeries",
    "Distribution",
    "ErrorTypes",
    "GaugeAggregate",
    "GaugeSeries",
    "HistogramSeries",
    "InternalCounter",
    "OperationRecorder",
    "OutcomeAggregate",
    "OutcomeSeries",
    "RecordLog",
    "Recorder",
    "RunningTimers",
    "Series",
    "SeriesIndex",
    "Slot",
    "Stopwatch",
    "TagSet",
    "TimerSeries",
    "monotonic_ns",
    "read_values",
    "read_versions",
)


class Owner(Protocol):
    """The interface that a series needs of its metric. Every `TagSet` has an owner."""

    @property
    def name(self) -> str:
        """The name of the metric."""
        ...

    def number(self, value: object, signed: bool) -> int | float | None:
        """Return a value as a finite number; ``None`` if it was rejected and counted. It may raise."""
        ...

    def milliseconds(self, value: object, unit: object) -> float | None:
        """Return a duration in milliseconds; ``None`` if it was rejected and counted. It may raise."""
        ...

    def error_type(self, error_type: str) -> str | None:
        """Admit an error type that is not in the slot's `ErrorTypes` yet.

        Returns:
            The error type to count; ``None`` if it was rejected and counted.
        """
        ...

    def readmit(self, series: Any) -> Any:
        """Return the live series to record into in place of a removed one; ``None`` if there is none."""
        ...


class Finder(Protocol):
    """Finds series for a `Recorder`: the store, or a scope of it."""

    def index(self, kind: str) -> SeriesIndex:
        """Return the index of ``"counter"``, ``"gauge"``, ``"histogram"`` or ``"timer"``."""
        ...

    def find(self, kind: str, name: object, tags: object) -> Any:
        """Return a series, created if it does not exist; ``None`` if the input was rejected and counted."""
        ...

    def find_step(self, name: object, step: int, tags: object) -> Any:
        """Return the counter or gauge that a step of 1 or -1 moves; ``None`` if it was rejected."""
        ...


class OperationFinder(Protocol):
    """Finds the series of operations for `OperationRecorder`."""

    def find_timing(self, operation: object, tags: object = None) -> Any:
        """Return the durations of an operation; ``None`` if the input was rejected and counted."""
        ...

    def find_outcomes(self, operation: object, tags: object = None) -> Any:
        """Return the outcomes of an operation; ``None`` if the input was rejected and counted."""
        ...


class TimerFinder(OperationFinder, Protocol):
    """Finds the series of operations for `RunningTimers`: the store."""

    def plain_metadata(self, metadata: object) -> dict[str, Any] | None:
        """Return a copy of the metadata of a timer; ``None`` if it was rejected and counted. It may raise."""
        ...

    def count_abandoned(self) -> None:
        """Count a timer that was started and is never stopped."""
        ...


def _select() -> tuple[Any, str, str]:
    """Return the engine, its name and the reason."""
    pure = "metrics_framework.recording._pure"
    if os.environ.get("METRICS_FRAMEWORK_PURE") == "1":
        return importlib.import_module(pure), "pure", "METRICS_FRAMEWORK_PURE=1"
    try:
        core = importlib.import_module("metrics_framework.recording._core")
    except ImportError as error:
        if os.environ.get("METRICS_FRAMEWORK_COMPILED") == "1":
            raise ImportError(
                f"METRICS_FRAMEWORK_COMPILED=1, but the compiled engine cannot be imported ({error}):"
                " build it with `make build`"
            ) from error
        reason = f"the compiled engine cannot be imported: {error}"
        _log_fallback(reason)
        return importlib.import_module(pure), "pure", reason
    if core.LAYOUT != LAYOUT:
        raise ImportError(
            f"the compiled engine was built for layout {core.LAYOUT}, but the library has layout {LAYOUT}:"
            " build it again with `make build`"
        )
    return core, "compiled", "the extension module is available"


def _log_fallback(reason: str) -> None:
    """Log the use of the pure-Python engine, unless the event would certainly be dropped.

    Importing structlog takes longer than importing the library, so do it only for an application that logs.
    """
    logging: Any = sys.modules.get("logging")
    if "structlog" in sys.modules or (
        logging is not None and logging.getLogger("metrics_framework").isEnabledFor(logging.DEBUG)
    ):
        from metrics_framework.log import log_event

        log_event("debug", "using the pure-Python recording engine", reason=reason)


if TYPE_CHECKING:
    from metrics_framework.recording import _core
    from metrics_framework.recording._pure import (
        RECENT_NS,
        Core,
        CounterAggregate,
        CounterSeries,
        Distribution,
        ErrorTypes,
        GaugeAggregate,
        GaugeSeries,
        HistogramSeries,
        InternalCounter,
        OperationRecorder,
        OutcomeAggregate,
        OutcomeSeries,
        Recorder,
        RecordLog,
        RunningTimers,
        Series,
        SeriesIndex,
        Slot,
        Stopwatch,
        TagSet,
        TimerSeries,
        monotonic_ns,
        read_values,
        read_versions,
    )

    ENGINE: str
    ENGINE_REASON: str
    PageReader: type[_core.PageReader] | None
else:
    _engine, ENGINE, ENGINE_REASON = _select()
    globals().update({name: getattr(_engine, name) for name in _NAMES})
    PageReader = getattr(_engine, "PageReader", None)

Aggregate = CounterAggregate | GaugeAggregate | Distribution | OutcomeAggregate

__all__ = [
    "ENGINE",
    "ENGINE_REASON",
    "LAYOUT",
    "RECENT_NS",
    "Aggregate",
    "Core",
    "CounterAggregate",
    "CounterSeries",
    "Distribution",
    "ErrorTypes",
    "Finder",
    "GaugeAggregate",
    "GaugeSeries",
    "HistogramSeries",
    "InternalCounter",
    "OperationRecorder",
    "OutcomeAggregate",
    "OutcomeSeries",
    "Owner",
    "PageReader",
    "RecordLog",
    "Recorder",
    "RunningTimers",
    "Series",
    "SeriesIndex",
    "Slot",
    "Stopwatch",
    "TagSet",
    "TimerFinder",
    "TimerSeries",
    "monotonic_ns",
    "read_values",
    "read_versions",
]
