"""The thread that reads resources, calls gauge callbacks and begins exports at an interval.

A forked child does not continue it until it configures an interval itself. Otherwise it would write files
that the application does not expect, and each worker of a pool would read the same machine. If workers share
their numbers, a child continues: one worker exports for all, and the others export their increments.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from metrics_framework.errors import SnapshotError
from metrics_framework.export.exporter import Outputs
from metrics_framework.export.outputs import FullSnapshot
from metrics_framework.log import Isolation
from metrics_framework.recording.state import SharingWorker
from metrics_framework.runtime.background import Background


class IntervalCollection:
    """Collects at an interval and begins exports, in a thread that runs until `stop`.

    The thread keeps the outputs and their system alive.

    Args:
        read: Reads and records resources.
        call: Calls the gauge callbacks.
        build: Builds a snapshot.
        outputs: Receive the snapshots.
        isolation: Logs failures; a failure does not affect the other steps.

    Attributes:
        worker: This process as a worker whose numbers are shared; ``None`` if they are not.
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
        self.worker: SharingWorker | None = None
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
            self._background = Background(
                self._work, interval, "metrics collection", in_child=self.worker is not None
            )

    def stop(self) -> None:
        """Stop, and wait for the thread as `Background.stop` does. Repeated calls do nothing."""
        background, self._background, self._interval = self._background, None, None
        if background is not None:
            background.stop()

    def begin_in_child(self) -> None:
        """Reset the state in a forked child."""
        self._is_first, self.cpu_ns = True, 0
        if self.worker is None:
            self._background, self._interval = None, None

    def _work(self) -> None:
        start_ns = time.thread_time_ns()
        try:
            self._isolation.call("resources not read", self._read)
            self._isolation.call("gauge callbacks not called", self._call)
            if not self._is_first:
                is_elected = self.worker is None or self.worker.is_elected
                self._outputs.begin(self._snapshot, self._isolation, is_elected=is_elected)
            self._is_first = False
        finally:
            self.cpu_ns += time.thread_time_ns() - start_ns

    def _snapshot(self) -> FullSnapshot | None:
        try:
            return self._build()
        except SnapshotError:
            return None  # nothing is measured yet
