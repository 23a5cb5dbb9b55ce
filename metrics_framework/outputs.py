"""Where snapshots and numbers go: outputs that were passed in, and those that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.faults import Faults
from metrics_framework.protocols import MetricsSystem
from metrics_framework.snapshots import PerformanceSnapshot

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class SnapshotOutput(Protocol):
    """Where snapshots go; the facade relies on it, and isolates one that fails from the others."""

    @property
    def name(self) -> str:
        """What `MetricsSystem.export_metrics_async` calls it by."""
        ...

    def write(self, snapshot: PerformanceSnapshot) -> object:
        """Keep a snapshot."""
        ...


class SystemOutput(Protocol):
    """Where a system's numbers go in a form of their own; the facade treats it as a `SnapshotOutput`."""

    @property
    def name(self) -> str:
        """What `MetricsSystem.export_metrics_async` calls it by."""
        ...

    def export(self, system: MetricsSystem) -> object:
        """Send or keep what a system holds now."""
        ...


Output = SnapshotOutput | SystemOutput
"""What the facade takes; whatever has a method ``write`` is given snapshots."""


class Outputs:
    """The outputs of a system.

    Args:
        system: Whose outputs they are.
        given: Those that were passed in; they stay, whatever is configured.

    Raises:
        InvalidInputError: If one of them has no name or nothing that takes what the system holds.
    """

    def __init__(self, system: MetricsSystem, given: Iterable[Output]) -> None:
        self._system = system
        self._given = [(_name_of(output), output) for output in given]
        self._all = self._given

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [name for name, _ in self._all]

    def configure(self, outputs: Iterable[Output]) -> None:
        """Use these in place of those that were configured before; one whose name is given adds nothing."""
        given = {name for name, _ in self._given}
        added = {_name_of(output): output for output in outputs}
        self._all = [*self._given, *((name, output) for name, output in added.items() if name not in given)]

    def write(
        self,
        build: Callable[[], PerformanceSnapshot | None],
        faults: Faults,
        only: Collection[str] | None = None,
    ) -> dict[str, bool]:
        """Write one snapshot, or what the system holds, to each output, on its own.

        Args:
            build: Makes the snapshot; called only where it is needed. ``None`` is nothing to write.
            faults: Logs what fails.
            only: Names of outputs; all by default.

        Returns:
            Name to whether it was written.
        """
        chosen = [(name, output) for name, output in self._all if only is None or name in only]
        written = dict.fromkeys((name for name, _ in chosen), False)
        of_snapshots = [name for name, output in chosen if _takes_snapshots(output)]
        snapshot = (
            faults.attempt("snapshot not written", build, outputs=of_snapshots) if of_snapshots else None
        )
        for name, output in chosen:
            if not _takes_snapshots(output):
                event, work = "metrics not exported", partial(output.export, self._system)
            elif snapshot is not None:
                event, work = "snapshot not written", partial(output.write, snapshot)
            else:
                continue
            written[name] = faults.attempt(event, _done(work), output=name) or False
        return written


def _takes_snapshots(output: Output) -> TypeIs[SnapshotOutput]:
    return callable(getattr(output, "write", None))


def _done(work: Callable[[], object]) -> Callable[[], bool]:
    def done() -> bool:
        work()
        return True

    return done


def _name_of(output: Output) -> str:
    name = getattr(output, "name", None)
    takes = _takes_snapshots(output) or callable(getattr(output, "export", None))
    if not isinstance(name, str) or not takes:
        raise InvalidInputError(
            f"{output!r} is no output: it needs a name and a method write(snapshot) or export(system)"
        )
    return name
