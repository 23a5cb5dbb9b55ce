"""Where snapshots and numbers go: what an output has to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsSystem
from metrics_framework.snapshots import PerformanceSnapshot

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from metrics_framework.recording import Distribution


@runtime_checkable
class SnapshotOutput(Protocol):
    """Where snapshots go; the facade relies on it, and isolates one that fails from the others.

    One that has a true attribute ``keeps_distributions`` is a `DistributionOutput`.
    """

    @property
    def name(self) -> str:
        """What `MetricsSystem.export_metrics_async` calls it by."""
        ...

    def write(self, snapshot: PerformanceSnapshot) -> object:
        """Keep a snapshot; an ``OSError`` says that it may be tried again later."""
        ...


@runtime_checkable
class DistributionOutput(SnapshotOutput, Protocol):
    """An output that keeps the values behind a snapshot's statistics as well."""

    @property
    def keeps_distributions(self) -> bool:
        """Whether it does."""
        ...

    def write(
        self, snapshot: PerformanceSnapshot, distributions: Mapping[str, Distribution] | None = None
    ) -> object:
        """Keep a snapshot and its distributions; see `BuildReport.distributions` for their keys."""
        ...


@runtime_checkable
class SystemOutput(Protocol):
    """Where a system's numbers go in a form of their own; the facade treats it as a `SnapshotOutput`.

    Endpoints of `metrics_framework.export.endpoints` are such outputs.
    """

    @property
    def name(self) -> str:
        """What `MetricsSystem.export_metrics_async` calls it by."""
        ...

    def export(self, system: MetricsSystem) -> object:
        """Send or keep what a system holds now, and return when that is done.

        Raises:
            OutputError: If it was not done: it is tried again later. `RefusedError` says that the same again
                would be refused again. Any other exception is a failure too.
        """
        ...


class FullSnapshot(NamedTuple):
    """What is written: a snapshot, and the values behind its statistics."""

    snapshot: PerformanceSnapshot
    distributions: Mapping[str, Distribution]


Output = SnapshotOutput | SystemOutput
"""What the facade takes; whatever has a method ``write`` is given snapshots."""


def takes_snapshots(output: Output) -> TypeIs[SnapshotOutput]:
    """Say whether an output is given snapshots rather than the system."""
    return isinstance(output, SnapshotOutput)


def name_of(output: Output) -> str:
    """Return the name of an output.

    Raises:
        InvalidInputError: If it has none, or nothing that takes what a system holds.
    """
    if not isinstance(output, SnapshotOutput | SystemOutput) or not isinstance(output.name, str):
        raise InvalidInputError(
            f"{output!r} is no output: it needs a name and a method write(snapshot) or export(system)"
        )
    return output.name
