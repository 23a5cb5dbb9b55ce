"""Where an export goes: an output, how it went, and what is owed to it.

What an output of snapshots refuses at an interval or at the end, because a disk is full or a folder is gone,
is owed to it: it is tried again with the next snapshot, and the final one a few times more. What an output of
the system's numbers does not take is no loss, as it is given all of them next time: after a failure it is
left alone for a while.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from metrics_framework.export.outputs import DistributionOutput, FullSnapshot, Output, takes_snapshots
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsSystem

if TYPE_CHECKING:
    from metrics_framework.callbacks.calls import Callback
    from metrics_framework.export.endpoints import EndpointUrl

FIRST_PAUSE = 1.0
"""Seconds without a try after a first failure; each further one doubles them."""
LONGEST_PAUSE = 300.0

OWED = 10
"""How many snapshots are owed to an output at most; from then on the oldest is given up."""


class Destination:
    """An output, and how it went.

    Args:
        name: What results and logs call it.
        output: The output.
        key: What a configuration calls it: a name or a URL, which may have secrets.
        url: The URL that it was made of, if it was.

    Attributes:
        takes_snapshots: Whether it is given snapshots; else it is given the system.
        reason: Why the last export failed; ``None`` where it did not.
        failures: How many failed since the last that did not.
        owed: What it refused and has not taken since, the newest last.
    """

    def __init__(
        self, name: str, output: Output, key: str | None = None, url: EndpointUrl | None = None
    ) -> None:
        self.name = name
        self.output: Any = output
        self.key = name if key is None else key
        self.takes_snapshots = takes_snapshots(output)
        self.reason: str | None = None
        self.failures = 0
        self.work: Callback | None = None
        self.owed: deque[FullSnapshot] = deque(maxlen=OWED)
        self._given_up = 0
        self._url = url
        self._not_before_ns = 0

    def is_due(self, now_ns: int) -> bool:
        """Say whether it is tried: an output of snapshots always, as there is another one each time."""
        return self.takes_snapshots or self.failures == 0 or now_ns >= self._not_before_ns

    # -- giving ----------------------------------------------------------------------------------------

    def give(self, system: MetricsSystem, snapshot: FullSnapshot | None, *, owe: bool = False) -> None:
        """Give it what it takes, and what is owed to it.

        Args:
            system: The system.
            snapshot: For an output of snapshots.
            owe: Whether a snapshot that it refuses is owed to it.
        """
        if not self.takes_snapshots:
            self.output.export(system)
        elif snapshot is not None:
            self._write(snapshot, owe)
            self.settle()

    def settle(self) -> None:
        """Write what is owed, the newest first, up to the first that is refused."""
        late = 0
        while self._write_owed():
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

    def _write(self, snapshot: FullSnapshot, owe: bool) -> None:
        try:
            self._put(snapshot)
        except OSError:  # what is refused for another reason would be refused again
            if owe:
                self._given_up += len(self.owed) == OWED
                self.owed.append(snapshot)
            raise

    def _write_owed(self) -> bool:
        try:
            snapshot = self.owed.pop()
        except IndexError:  # nothing is owed, or another thread was faster
            return False
        try:
            self._put(snapshot)
        except OSError:
            self.owed.append(snapshot)
            return False
        except Exception:  # noqa: BLE001 - an output may raise anything, and would again
            self._given_up += 1
            return False
        return True

    def _put(self, snapshot: FullSnapshot) -> None:
        if isinstance(self.output, DistributionOutput) and self.output.keeps_distributions:
            self.output.write(*snapshot)
        else:
            self.output.write(snapshot.snapshot)

    # -- how it went -----------------------------------------------------------------------------------

    def succeed(self) -> None:
        """Note that an export succeeded."""
        self.failures, self.reason = 0, None

    def fail(self, reason: str, now_ns: int) -> None:
        """Note that an export failed, and pause: longer each time, by a random part less."""
        import random  # slow to import, and all may be well

        # The exponent is bounded too, as a float's is.
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.failures, 16))
        self._not_before_ns = now_ns + int(pause * random.uniform(0.5, 1.0) * 1e9)  # noqa: S311 - no secret
        self.failures += 1
        self.reason = reason if self._url is None else self._url.scrubbed(reason)

    def log(self) -> None:
        """Say why the last export failed."""
        event = "snapshot not written" if self.takes_snapshots else "metrics not exported"
        log_event("error", event, output=self.name, error=self.reason)
