"""Where snapshots and numbers go: outputs that were passed in, and those that a configuration names.

What an output of snapshots refuses at an interval or at the end, because a disk is full or a folder is gone,
is owed to it: it is tried again with the next snapshot, and the final one a few times more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.faults import Faults
from metrics_framework.logs import log_event
from metrics_framework.protocols import MetricsSystem
from metrics_framework.snapshots import PerformanceSnapshot

if TYPE_CHECKING:
    from metrics_framework.recording import Distribution

OWED = 10
"""How many snapshots are owed to an output at most; from then on the oldest is given up."""

LAST_TRIES = 3
"""How often the final snapshot is tried."""

LAST_PAUSE = 0.5
"""Seconds between two of these tries."""


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


class FullSnapshot(NamedTuple):
    """What is written: a snapshot, and the values behind its statistics."""

    snapshot: PerformanceSnapshot
    distributions: Mapping[str, Distribution]


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
        self._given = [_Target(output) for output in given]
        self._all = self._given

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [target.name for target in self._all]

    def configure(self, outputs: Iterable[Output]) -> None:
        """Use these in place of those that were configured before; one whose name is given adds nothing.

        What is owed to one that is replaced by one of the same name is owed to that.
        """
        given = {target.name for target in self._given}
        before = {target.name: target for target in self._all}
        added = {target.name: target for output in outputs if (target := _Target(output)).name not in given}
        for name, target in added.items():
            if name in before:
                target.owed = before[name].owed
        self._all = [*self._given, *added.values()]

    def move_to(self, other: Outputs) -> None:
        """Leave all of them to another system, which gets none twice."""
        moved, self._given, self._all = self._all, [], []
        there = [target.output for target in other._all]
        added = [target for target in moved if target.output not in there]
        configured = other._all[len(other._given) :]
        other._given = [*other._given, *added]
        other._all = [*other._given, *configured]

    def write(
        self,
        build: Callable[[], FullSnapshot | None],
        faults: Faults,
        only: Collection[str] | None = None,
        *,
        owe: bool = False,
    ) -> dict[str, bool]:
        """Write one snapshot, or what the system holds, to each output, on its own, and what is owed to it.

        Args:
            build: Makes the snapshot; called only where it is needed. ``None`` is nothing to write.
            faults: Logs what fails.
            only: Names of outputs; all by default.
            owe: Whether what an output refuses is owed to it.

        Returns:
            Name to whether it was written.
        """
        chosen = [target for target in self._all if only is None or target.name in only]
        written = dict.fromkeys((target.name for target in chosen), False)
        of_snapshots = [target.name for target in chosen if target.takes_snapshots]
        snapshot = (
            faults.attempt("snapshot not written", build, outputs=of_snapshots) if of_snapshots else None
        )
        for target in chosen:
            if not target.takes_snapshots:
                written[target.name] = target.export(self._system, faults)
            elif snapshot is not None:
                written[target.name] = target.write(snapshot, faults, owe)
        return written

    def write_last(self, build: Callable[[], FullSnapshot | None], faults: Faults) -> None:
        """Write the final snapshot as `write` does, and try again what is owed then; the rest is given up."""
        self.write(build, faults, owe=True)
        for _ in range(LAST_TRIES - 1):
            waiting = [target for target in self._all if target.owed]
            if waiting:
                time.sleep(LAST_PAUSE)
            for target in waiting:
                target.settle(faults)
        for target in self._all:
            target.give_up()

    def begin_in_child(self) -> None:
        """Leave what is owed to the parent."""
        for target in self._all:
            target.owed = deque(maxlen=OWED)


class _Target:
    """An output and what is owed to it.

    Attributes:
        output: The output.
        name: What it is called.
        takes_snapshots: Whether it is given snapshots; else it is given the system.
        owed: What it refused and has not taken since, the newest last.
    """

    def __init__(self, output: Output) -> None:
        name = getattr(output, "name", None)
        self.takes_snapshots = callable(getattr(output, "write", None))
        takes = self.takes_snapshots or callable(getattr(output, "export", None))
        if not isinstance(name, str) or not takes:
            raise InvalidInputError(
                f"{output!r} is no output: it needs a name and a method write(snapshot) or export(system)"
            )
        self.name = name
        self.output: Any = output
        self.owed: deque[FullSnapshot] = deque(maxlen=OWED)
        self._given_up = 0

    def export(self, system: MetricsSystem, faults: Faults) -> bool:
        """Give it the system: what it does not take now, it is given as it is next time."""

        def export() -> bool:
            self.output.export(system)
            return True

        return faults.attempt("metrics not exported", export, output=self.name) or False

    def write(self, snapshot: FullSnapshot, faults: Faults, owe: bool) -> bool:
        """Give it a snapshot, and what is owed to it if it takes that."""

        def put() -> bool:
            try:
                self._put(snapshot)
            except OSError:  # what is refused for another reason would be refused again
                if owe:
                    self._given_up += len(self.owed) == OWED
                    self.owed.append(snapshot)
                raise
            return True

        written = faults.attempt("snapshot not written", put, output=self.name) or False
        if written:
            self.settle(faults)
        return written

    def settle(self, faults: Faults) -> None:
        """Write what is owed, the newest first, up to the first that is refused."""
        late = 0
        while len(self.owed) and faults.attempt("snapshot not written", self._put_owed, output=self.name):
            late += 1
        if late:
            lost, self._given_up = self._given_up, 0
            level = "warning" if lost else "info"
            log_event(level, "snapshots written late", output=self.name, written=late, lost=lost)

    def give_up(self) -> None:
        """Say what is lost for good."""
        lost = self._given_up + len(self.owed)
        self.owed.clear()
        if lost:
            log_event("error", "snapshots lost", output=self.name, lost=lost)

    def _put(self, snapshot: FullSnapshot) -> None:
        if getattr(self.output, "keeps_distributions", False):
            self.output.write(*snapshot)
        else:
            self.output.write(snapshot.snapshot)

    def _put_owed(self) -> bool:
        try:
            snapshot = self.owed.pop()
        except IndexError:  # another thread was faster
            return False
        try:
            self._put(snapshot)
        except OSError:
            self.owed.append(snapshot)
            raise
        except Exception:
            self._given_up += 1
            raise
        return True
