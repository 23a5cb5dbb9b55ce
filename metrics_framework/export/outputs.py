"""The Protocols of outputs, which receive snapshots or the whole system."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.deadline import Deadline
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.validation import word_repr

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from metrics_framework.recording import Distribution


@runtime_checkable
class SnapshotOutput(Protocol):
    """Receives snapshots. The facade relies on it, and isolates a failing output from the others.

    An output with a true attribute ``keeps_distributions`` is a `DistributionOutput`.
    """

    @property
    def name(self) -> str:
        """The name for `MetricsSystem.export_metrics_async`, results and logs."""
        ...

    def write(self, snapshot: PerformanceSnapshot) -> object:
        """Store or send a snapshot. After an ``OSError`` it is retried later."""
        ...


@runtime_checkable
class DistributionOutput(SnapshotOutput, Protocol):
    """An output that also stores the distributions behind the statistics of a snapshot."""

    @property
    def keeps_distributions(self) -> bool:
        """Whether ``write`` takes distributions."""
        ...

    def write(
        self, snapshot: PerformanceSnapshot, distributions: Mapping[str, Distribution] | None = None
    ) -> object:
        """Store a snapshot and its distributions. `BuildReport.distributions` explains their keys."""
        ...


@runtime_checkable
class SystemOutput(Protocol):
    """Exports the current numbers of a system in a format of its own.

    The endpoints of `metrics_framework.export.endpoints` are such outputs.
    """

    @property
    def name(self) -> str:
        """The name for `MetricsSystem.export_metrics_async`, results and logs."""
        ...

    def export(self, system: MetricsSystem) -> object:
        """Export the current numbers of a system, and return when that is done.

        Raises:
            OutputError: If the export failed and may succeed later. A `RefusedError` states that the same
                data would be refused again. Any other exception is a failure too.
        """
        ...


@runtime_checkable
class IncrementalOutput(SystemOutput, Protocol):
    """A `SystemOutput` that exports increments since its last export."""

    def attach(self, system: MetricsSystem) -> object:
        """Track series that are removed before the first export.

        `Outputs` calls it when the output is added to a system. Repeated calls do nothing.
        """
        ...


@runtime_checkable
class LocalOutput(Protocol):
    """An output that may write to the disks of this machine only. Such outputs are started first."""

    @property
    def is_local(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class PerWorkerOutput(Protocol):
    """An output that each worker of a group exports to, with its own numbers, such as increments.

    All other outputs receive the numbers of all workers, from the elected worker.
    """

    @property
    def is_per_worker(self) -> bool:
        """Whether it is one."""
        ...


class FullSnapshot(NamedTuple):
    """A snapshot and the distributions behind its statistics."""

    snapshot: PerformanceSnapshot
    distributions: Mapping[str, Distribution]


Output = SnapshotOutput | SystemOutput
"""An output of the facade. If it has a method ``write``, it receives snapshots."""


def takes_snapshots(output: Output) -> TypeIs[SnapshotOutput]:
    """Return whether an output receives snapshots instead of the system."""
    return isinstance(output, SnapshotOutput)


def name_of(output: Output) -> str:
    """Return the name of an output.

    Raises:
        InvalidInputError: If it has no name, or neither ``write`` nor ``export``.
    """
    if not isinstance(output, SnapshotOutput | SystemOutput) or not isinstance(output.name, str):
        raise InvalidInputError(
            f"{word_repr(output)} is not an output: it needs a name and a method write(snapshot) or"
            " export(system)"
        )
    return output.name


@contextmanager
def exporting_alone(lock: threading.Lock, name: str, seconds: float) -> Iterator[None]:
    """Hold the lock of an output, so that its exports do not overlap.

    Args:
        lock: The lock.
        name: The name of the output, for the error.
        seconds: How long to wait for another export. In the export of a system, its deadline applies too.

    Raises:
        OutputError: If another export goes on for longer.
    """
    if not lock.acquire(timeout=Deadline(seconds).seconds_left):
        raise OutputError(f"cannot export to {name}: another export to it is running")
    try:
        yield
    finally:
        lock.release()
