"""What a system does by itself at an interval, in one thread: read the machine, call gauge callbacks, write.

A forked child does none of it until it configures an interval of its own: it would write files that nobody
asked it for, and a pool of workers would read the same machine many times.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from metrics_framework.errors import SnapshotError
from metrics_framework.export.exporter import Outputs
from metrics_framework.export.outputs import FullSnapshot
from metrics_framework.log import Isolation
from metrics_framework.runtime.background import Background


class Collection:
    """Collects at an interval, in a thread of its own, which ends when nobody has the collection any more.

    Args:
        read: Reads the machine and records the readings.
        call: Calls the gauge callbacks.
        build: Makes what is written.
        outputs: Where snapshots go.
        isolation: Logs what fails; what fails costs nothing else.

    Attributes:
        cpu_ns: CPU time that the thread has used so far, in nanoseconds.
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
        """Seconds between two collections; ``None`` while there are none."""
        return self._interval

    def start(self, interval: float) -> None:
        """Read all at once, and read all and write snapshots every ``interval`` seconds from now on.

        Nothing happens where the interval is that already.
        """
        if interval != self._interval:
            self.stop()
            self._interval, self._is_first = interval, True
            # A bound method, which keeps neither this nor the system alive.
            self._background = Background(self._work, interval, "metrics collection", in_child=False)

    def stop(self) -> None:
        """Stop, and wait until nothing runs any more; a second call does nothing."""
        background, self._background, self._interval = self._background, None, None
        if background is not None:
            background.stop()

    def begin_in_child(self) -> None:
        """Forget the thread, which a forked child does not have."""
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
            return None  # nothing was measured yet
