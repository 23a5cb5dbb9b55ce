"""The thread that reads resources, calls gauge callbacks and writes outputs at an interval.

A forked child does not continue it until it configures an interval itself. Otherwise it would write files
that the application does not expect, and each worker of a pool would read the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from metrics_framework.errors import SnapshotError
from metrics_framework.export.exporter import Outputs
from metrics_framework.export.outputs import FullSnapshot
from metrics_framework.log import Isolation
from metrics_framework.runtime.background import Background


class IntervalCollection:
    """Collects and exports at an interval, in a thread that ends when this object is garbage collected.

    Args:
        read: Reads and records resources.
        call: Calls the gauge callbacks.
        build: Builds a snapshot.
        outputs: Receive the snapshots.
        isolation: Logs failures; a failure does not affect the other steps.

    Attributes:
        cpu_ns: The CPU time of the thread so far, in nanoseconds.
    """

    def __init__(
        self,
        read: Callable[[], object],
        call: Callable[[], object],
        build: Callable[[], FullSnapshot],
        outputs: Outputs,
        isolation: Isolation,
    ) -> None:
        self._read = read
        self._call = call
        self._build = build
        self._outputs = outputs
        self._isolation = isolation
        self._interval: float | None = None
        self._is_first = True
        self._background: Background | None = None
        self.cpu_ns = 0

    @property
    def interval(self) -> float | None:
        """Seconds between two collections; ``None`` if stopped."""
        return self._interval

    def start(self, interval: float) -> None:
        """Collect now, and collect and export every ``interval`` seconds.

        Does nothing if the interval does not change.
        """
        if interval != self._interval:
            self.stop()
            self._interval, self._is_first = interval, True
            # `Background` refers to the bound method weakly: it does not keep the system alive.
            self._background = Background(self._work, interval, "metrics collection", in_child=False)

    def stop(self) -> None:
        """Stop and wait for the thread. Repeated calls do nothing."""
        background, self._background, self._interval = self._background, None, None
        if background is not None:
            background.stop()

    def begin_in_child(self) -> None:
        """Reset the state in a forked child, which does not have the thread."""
        self._background, self._interval, self.cpu_ns = None, None, 0

    def _work(self) -> None:
        start_ns = time.thread_time_ns()
        try:
            self._isolation.call("resources not read", self._read)
            self._isolation.call("gauge callbacks not called", self._call)
            if not self._is_first:
                self._outputs.write(self._snapshot, self._isolation, at_interval=True)
            self._is_first = False
        finally:
            self.cpu_ns += time.thread_time_ns() - start_ns

    def _snapshot(self) -> FullSnapshot | None:
        try:
            return self._build()
        except SnapshotError:
            return None  # nothing is measured yet
