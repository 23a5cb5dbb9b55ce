"""Where snapshots go: outputs that were passed in, and those that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.faults import Faults
from metrics_framework.snapshots import PerformanceSnapshot


class SnapshotOutput(Protocol):
    """Where snapshots go; the facade relies on it, and isolates one that fails from the others."""

    @property
    def name(self) -> str:
        """What `MetricsSystem.export_metrics_async` calls it by."""
        ...

    def write(self, snapshot: PerformanceSnapshot) -> object:
        """Keep a snapshot."""
        ...


class Outputs:
    """The outputs of a system.

    Args:
        given: Those that were passed in; they stay, whatever is configured.

    Raises:
        InvalidInputError: If one of them has no name or cannot be written to.
    """

    def __init__(self, given: Iterable[SnapshotOutput]) -> None:
        self._given = [(_name_of(output), output) for output in given]
        self._all = self._given

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [name for name, _ in self._all]

    def configure(self, outputs: Iterable[SnapshotOutput]) -> None:
        """Use these in place of those that were configured before; one whose name is given adds nothing."""
        given = {name for name, _ in self._given}
        added = {_name_of(output): output for output in outputs}
        self._all = [*self._given, *((name, output) for name, output in added.items() if name not in given)]

    def write(
        self, build: Callable[[], PerformanceSnapshot], faults: Faults, only: Collection[str] | None = None
    ) -> dict[str, bool]:
        """Write one snapshot to each output, on its own.

        Args:
            build: Makes the snapshot; called only where it is needed.
            faults: Logs what fails.
            only: Names of outputs; all by default.

        Returns:
            Name to whether it was written.
        """
        chosen = [(name, output) for name, output in self._all if only is None or name in only]
        written = dict.fromkeys((name for name, _ in chosen), False)
        if not chosen:
            return written
        snapshot = faults.attempt("snapshot not written", build, outputs=list(written))
        for name, output in chosen if snapshot is not None else ():
            written[name] = (
                faults.attempt("snapshot not written", _writing(output, snapshot), output=name) or False
            )
        return written


def _writing(output: SnapshotOutput, snapshot: PerformanceSnapshot | None) -> Callable[[], bool]:
    def write() -> bool:
        assert snapshot is not None
        output.write(snapshot)
        return True

    return write


def _name_of(output: SnapshotOutput) -> str:
    name = getattr(output, "name", None)
    if not isinstance(name, str) or not callable(getattr(output, "write", None)):
        raise InvalidInputError(f"{output!r} is no output: it needs a name and a method write(snapshot)")
    return name
