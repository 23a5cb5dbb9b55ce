"""Exports of a system: all outputs at the same time, each in its own thread and with a deadline.

Each output has a `Destination`, which owns the thread, knows the result of its last export and retries failed
snapshots.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from metrics_framework.clock import Clock
from metrics_framework.errors import InvalidInputError, MetricsError
from metrics_framework.export.outputs import (
    DistributionOutput,
    FullSnapshot,
    IncrementalOutput,
    LocalOutput,
    Output,
    PerWorkerOutput,
    name_of,
    takes_snapshots,
)
from metrics_framework.log import Isolation, log_event
from metrics_framework.log import prepare as prepare_log
from metrics_framework.protocols import MetricsSystem
from metrics_framework.runtime.deadline import Call, Deadline, Worker, seconds_left
from metrics_framework.runtime.event_loops import checkpoint
from metrics_framework.validation import safe_repr, word_repr

if TYPE_CHECKING:
    from metrics_framework.export.endpoints import EndpointUrl

T = TypeVar("T")

FINAL_TRIES = 3
"""How often the final snapshot is tried."""
FINAL_PAUSE_SECONDS = 0.5
"""The pause between two of these tries."""
DEFAULT_EXPORT_TIMEOUT_SECONDS = 30.0
"""The time limit of an export, at the interval and on demand."""
DEFAULT_SHUTDOWN_TIMEOUT_SECONDS = 5.0
"""The time limit of `MetricsSystem.shutdown_metrics`, below the grace periods of Docker and Kubernetes."""
QUICK_SECONDS = 0.2
"""How long a final export may take before a failure of it is expected."""
MAX_ON_DEMAND_ENDPOINTS = 100
"""How many endpoints are remembered that were exported to without being configured."""
FIRST_PAUSE_SECONDS = 1.0
"""The pause after a first failure; each further failure doubles it."""
MAX_PAUSE_SECONDS = 300.0
MAX_PENDING_SNAPSHOTS = 10
"""How many snapshots are pending for one output; the oldest is discarded for the next."""

BuildSnapshot = Callable[[], FullSnapshot | None]
"""Builds a snapshot, or returns ``None`` if nothing was measured."""


class Destination:
    """An output, the thread that writes it, the result of its last export, and its pending snapshots.

    Exports to one output never overlap. An output that hangs occupies its own thread only.

    A snapshot that an output refuses with an ``OSError``, because a disk is full or a folder is gone, is
    pending: it is retried with the next snapshot, and the final one a few more times. An output of the
    system's current numbers has nothing pending; after a failure it pauses.

    Args:
        name: The name in results and logs.
        output: The output.
        clock: Measures pauses.
        usage: Is told when the output receives something.
        key: Its name or URL in the configuration. A URL may contain secrets.
        url: The URL that it was created from, if any.

    Attributes:
        takes_snapshots: Whether it receives snapshots; otherwise it receives the system.
        is_local: Whether it writes to this machine's disks only.
        is_per_worker: Whether each worker of a group exports its own numbers to it.
        reason: Why the last export failed; ``None`` if it succeeded.
        failures: The number of failures since the last success.
        pending: The snapshots to retry, the newest last.
        cpu_ns: The CPU time of its thread so far, in nanoseconds.
    """

    def __init__(
        self,
        name: str,
        output: Output,
        clock: Clock,
        usage: _Usage,
        key: str | None = None,
        url: EndpointUrl | None = None,
    ) -> None:
        self.name = name
        self.output: Any = output
        self.key = name if key is None else key
        self.takes_snapshots = takes_snapshots(output)
        self.is_local = isinstance(output, LocalOutput) and output.is_local
        self.is_per_worker = isinstance(output, PerWorkerOutput) and output.is_per_worker
        self.reason: str | None = None
        self.failures = 0
        self.pending: deque[FullSnapshot] = deque(maxlen=MAX_PENDING_SNAPSHOTS)
        self.cpu_ns = 0
        self._clock = clock
        self._url = url
        self._discarded = 0
        self._not_before_ns = 0
        self._reported: Call | None = None  # the last call whose failure is recorded
        self._usage = usage
        self.worker = Worker(f"metrics-output {name}", at_end=usage.warn)

    def is_due(self, now_ns: int) -> bool:
        """Return whether its pause is over. An output of snapshots never pauses: each snapshot is new."""
        return self.takes_snapshots or self.failures == 0 or now_ns >= self._not_before_ns

    def begin(
        self,
        system: MetricsSystem,
        build: BuildSnapshot | None,
        deadline: Deadline,
        *,
        at_interval: bool = False,
        is_final: bool = False,
    ) -> Call:
        """Begin an export in the thread of this output, after the one in progress.

        Args:
            system: The system.
            build: Returns the snapshot, for an output of snapshots.
            deadline: Limits the exchange with a server.
            at_interval: Whether a failure is logged once until a success.
            is_final: Whether pending snapshots are retried a few more times, and then discarded.
        """
        self._usage.use(self.name)

        def export() -> None:
            start_ns = time.thread_time_ns()
            try:
                self._export(system, build, retry_later=at_interval or is_final, at_interval=at_interval)
            finally:
                if is_final:
                    self._retry_for_the_last_time()
                self.cpu_ns += time.thread_time_ns() - start_ns

        if is_final and self.worker.running is not None:
            self.worker.running.deadline.cancel_retries()
        try:
            return self.worker.submit(export, deadline)
        except RuntimeError as error:  # the system or an exiting interpreter starts no more threads
            call = Call(export, deadline)
            call.cancel(error)
            self.fail(safe_repr(error))
            self.log()
            return call

    def time_out(self, call: Call, deadline: Deadline, *, log_again: bool = True) -> None:
        """Record that a call missed a deadline. Its thread is left to it.

        Args:
            call: The call.
            deadline: The deadline. Another caller that waits for the call may have a later one.
            log_again: Whether to log this failure after another one.
        """
        self.worker.cancel(call, deadline)
        if call is self._reported:  # at an earlier interval, or just now by the client itself
            return
        if call is self.worker.running:
            self._reported = call
        is_new = self.failures == 0
        self.fail(f"no answer within {deadline}")
        if is_new or log_again:
            self.log()

    def close(self) -> None:
        """End the thread, without waiting for it."""
        self._usage.use(self.name)
        self.worker.stop()

    def discard(self) -> None:
        """Discard the pending snapshots, and log how many are lost."""
        lost = self._discarded + len(self.pending)
        self._discarded = 0
        self.pending.clear()
        if lost:
            log_event("error", "snapshots lost", output=self.name, lost=lost)

    def _export(
        self, system: MetricsSystem, build: BuildSnapshot | None, *, retry_later: bool, at_interval: bool
    ) -> None:
        is_new = self.failures == 0
        try:
            if not self.takes_snapshots:
                self.output.export(system)
            elif build is not None and (snapshot := build()) is not None:
                self._write(snapshot, retry_later)
                self._retry()
        except BaseException as error:
            running = self.worker.running
            if self._reported is not running:  # otherwise the time-out is the failure
                self._reported = running
                self.fail(safe_repr(error))
                if is_new or not at_interval:
                    self.log()
            raise
        self.failures, self.reason = 0, None

    def _retry(self) -> None:
        """Write the pending snapshots, the newest first, until one is refused."""
        late = 0
        while self._write_pending():
            late += 1
        if late:
            lost, self._discarded = self._discarded, 0
            level = "warning" if lost else "info"
            log_event(level, "snapshots written late", output=self.name, written=late, lost=lost)

    def _retry_for_the_last_time(self) -> None:
        for _ in range(FINAL_TRIES - 1):
            if not self.pending or (seconds_left() or 0.0) <= FINAL_PAUSE_SECONDS:
                break
            time.sleep(FINAL_PAUSE_SECONDS)
            self._retry()
            if not self.pending:
                self.failures, self.reason = 0, None
        self.discard()

    def _write(self, snapshot: FullSnapshot, retry_later: bool) -> None:
        try:
            self._put(snapshot)
        except OSError:  # any other error would occur again
            if retry_later:
                self._discarded += len(self.pending) == MAX_PENDING_SNAPSHOTS
                self.pending.append(snapshot)
            raise

    def _write_pending(self) -> bool:
        try:
            snapshot = self.pending.pop()
        except IndexError:  # nothing is pending, or another thread discarded it
            return False
        try:
            self._put(snapshot)
        except OSError:
            self.pending.append(snapshot)
            return False
        except Exception:  # noqa: BLE001 - an output may raise anything, and would raise it again
            self._discarded += 1
            return False
        return True

    def _put(self, snapshot: FullSnapshot) -> None:
        if isinstance(self.output, DistributionOutput) and self.output.keeps_distributions:
            self.output.write(*snapshot)
        else:
            self.output.write(snapshot.snapshot)

    def fail(self, reason: str) -> None:
        """Record a failure, and pause: twice as long each time, less a random part."""
        import random  # slow to import, and only needed after a failure

        # The exponent is bounded because floats are.
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self.failures, 16))
        pause_ns = int(pause * random.uniform(0.5, 1.0) * 1e9)  # noqa: S311 - not a secret
        self._not_before_ns = self._clock.monotonic_ns() + pause_ns
        self.failures += 1
        self.reason = reason if self._url is None else self._url.redacted(reason)

    def log(self) -> None:
        """Log why the last export failed."""
        event = "snapshot not written" if self.takes_snapshots else "metrics not exported"
        log_event("error", event, output=self.name, error=self.reason)


class _Usage:
    """Warns of outputs that never receive anything, because their system is neither used nor shut down."""

    def __init__(self) -> None:
        self._unused: set[str] = set()
        _usages.add(self)

    def expect(self, output: str) -> None:
        """Warn at the end of the system or of the interpreter, unless the output is used before."""
        self._unused.add(output)

    def use(self, output: str) -> None:
        """Do not warn of an output."""
        self._unused.discard(output)

    def clear(self) -> None:
        """Do not warn of any output."""
        self._unused = set()

    def warn(self) -> None:
        """Log the warning, once."""
        unused, self._unused = self._unused, set()
        if unused:
            log_event(
                "warning",
                "outputs never received anything",
                outputs=sorted(unused),
                remedy="use the MetricsSystem in a with block, call shutdown_metrics(), or pass"
                " shutdown_on_exit=True",
            )


_usages: weakref.WeakSet[_Usage] = weakref.WeakSet()


@atexit.register
def _warn_at_exit() -> None:
    for usage in list(_usages):
        usage.warn()


class Outputs:
    """The outputs of a system.

    Args:
        system: Their system.
        given: Outputs that were passed in. A configuration does not remove them.
        clock: Measures pauses.

    Attributes:
        timeout: The time limit in seconds of an export, at the interval and on demand.

    Raises:
        InvalidInputError: If one of them has no name, or neither ``write`` nor ``export``.
    """

    def __init__(self, system: MetricsSystem, given: Iterable[Output], clock: Clock) -> None:
        self._system = system
        self._clock = clock
        self.timeout = DEFAULT_EXPORT_TIMEOUT_SECONDS
        if isinstance(given, str):
            raise InvalidInputError(
                f"outputs={word_repr(given)} is a string: pass a list of outputs, such as"
                " [SnapshotWriter('snapshots')]; names and URLs belong in export_endpoints of the"
                " configuration"
            )
        named = [(name_of(output), output) for output in given]
        self._usage = _Usage()
        self._given = [Destination(name, output, clock, self._usage) for name, output in named]
        for each in self._given:
            self._usage.expect(each.name)
        self._attach(self._given)
        self._configured: list[Destination] = []
        self._on_demand: dict[str, Destination] = {}
        self._creation_errors: dict[str, str] = {}  # endpoint as given, which may contain secrets, to reason
        self._creating = threading.Lock()  # concurrent exports create an endpoint once

    @property
    def failures(self) -> dict[str, str]:
        """The outputs whose last export failed: name to reason."""
        failures: dict[str, str] = {}
        for endpoint, reason in list(self._creation_errors.items()):
            shown = _without_secrets(endpoint)
            number = next(number for number in count(1) if _numbered(shown, number) not in failures)
            failures[_numbered(shown, number)] = reason
        return failures | {each.name: each.reason for each in self._all() if each.reason is not None}

    @property
    def cpu_ns(self) -> int:
        """The CPU time of the threads of the outputs, in nanoseconds."""
        return sum(each.cpu_ns for each in self._all())

    def _all(self) -> list[Destination]:
        return [*self._given, *self._configured, *list(self._on_demand.values())]

    def prepare(self, endpoints: Mapping[str, str]) -> list[Destination]:
        """Create the endpoints of a configuration. An existing one is reused, with its state.

        Args:
            endpoints: Name or URL in the configuration to the full URL.

        Raises:
            ConfigurationError: If an endpoint is unknown or its URL is not allowed.
        """
        given = {each.name for each in self._given}
        prepared: list[Destination] = []
        for name, url in endpoints.items():
            if name not in given:
                prepared.append(self._existing(url) or self._create(name, url, prepared))
        return prepared

    def configure(self, prepared: list[Destination]) -> None:
        """Replace the configured outputs.

        Pending snapshots go to the new output of the same name. If there is none, they are discarded.
        """
        gone = {each.name: each for each in self._configured if each not in prepared}
        removed = list(gone.values())
        new = [each for each in prepared if each not in self._configured]
        self._configured = prepared
        self._attach(new)
        for each in new:
            if self._on_demand.pop(each.key, None) is None:
                self._usage.expect(each.name)
            if each.name in gone:
                each.pending.extend(gone.pop(each.name).pending)
        for other in gone.values():
            other.discard()
        for other in removed:
            other.close()

    def _attach(self, destinations: Iterable[Destination]) -> None:
        for each in destinations:
            if isinstance(each.output, IncrementalOutput):
                each.output.attach(self._system)

    def move_to(self, other: Outputs) -> None:
        """Move all outputs to another system, except those that it has already."""
        moved = [*self._given, *self._configured]
        self._given, self._configured = [], []
        there = [each.output for each in (*other._given, *other._configured)]
        for each in moved:
            if each.output in there:
                each.close()
            else:
                other._given.append(each)

    def begin_in_child(self) -> None:
        """Leave pending snapshots to the parent."""
        self._creating = threading.Lock()
        for each in self._all():
            each.pending.clear()
        self._usage.clear()

    def start_threads(self) -> None:
        """Start the threads of all outputs that this process does not have, as after a fork."""
        for each in (*self._given, *self._configured):
            with suppress(RuntimeError):  # an export tries again, and reports it
                each.worker.start()

    def begin(
        self, build: BuildSnapshot, isolation: Isolation, *, is_elected: bool = True
    ) -> list[tuple[Destination, Call]]:
        """Begin an export to each output that is neither busy nor paused. This does not wait for any of them.

        Args:
            build: Builds the snapshot, if an output needs one.
            isolation: Logs an error of ``build``.
            is_elected: Whether this worker of a group exports for all; otherwise only its own numbers.

        Returns:
            The outputs, and the calls that were begun.
        """
        now_ns = self._clock.monotonic_ns()
        chosen = []
        for each in sorted(self._of_this_worker(is_elected), key=_order):
            running = each.worker.running
            if running is not None and not running.deadline.seconds_left:
                each.time_out(running, running.deadline, log_again=False)
            if not each.worker.is_busy and each.is_due(now_ns):
                chosen.append(each)
        of_snapshots = [each.name for each in chosen if each.takes_snapshots]
        snapshot = (
            isolation.call("snapshot not written", build, outputs=of_snapshots) if of_snapshots else None
        )
        deadline = Deadline(self.timeout)
        return [
            (each, each.begin(self._system, lambda: snapshot, deadline, at_interval=True))
            for each in chosen
            if snapshot is not None or not each.takes_snapshots
        ]

    def _of_this_worker(self, is_elected: bool) -> list[Destination]:
        """Return the outputs that this worker of a group exports to."""
        every = [*self._given, *self._configured]
        for each in every:
            if not is_elected and not each.is_per_worker:
                self._usage.use(each.name)  # by another worker
        return [each for each in every if is_elected or each.is_per_worker]

    def begin_final(
        self, build: BuildSnapshot, overall: Deadline, *, is_last: bool = True
    ) -> Callable[[], None]:
        """Begin to write all outputs for the last time, and wait a moment for local files.

        Args:
            build: Builds the snapshot, if an output needs one.
            overall: When to stop waiting.
            is_last: Whether this is the last worker of a group; otherwise only its own numbers are written.

        Returns:
            A function that waits until all are written, at the latest until the deadline, and ends their
            threads. The log and `failures` have the outputs that were not written.
        """
        shared = _SharedSnapshot(build)
        # A client that gives up at its own deadline reports more than that time has passed.
        deadline = Deadline(0.95 * overall.seconds_left, is_final=True)
        # An output that shuts the system down is called at once, in its thread, which is this one: last.
        every = sorted(self._of_this_worker(is_last), key=lambda each: (each.worker.is_here, *_order(each)))
        calls = [(each, each.begin(self._system, shared, deadline, is_final=True)) for each in every]
        _wait_a_moment(call for each, call in calls if each.is_local)

        def finish() -> None:
            if not _wait_a_moment(call for _, call in calls):
                prepare_log()  # while there is time: a client reports its failure shortly before the end
            for each, call in calls:
                if not call.wait(overall.seconds_left):
                    each.time_out(call, deadline)
                    each.discard()
            for each in self._all():
                each.close()

        return finish

    async def export(
        self,
        endpoints: Iterable[str],
        build: BuildSnapshot,
        urls: Mapping[str, str],
    ) -> dict[str, bool]:
        """Export to several endpoints concurrently, without blocking the event loop.

        Args:
            endpoints: Names of outputs, or names or URLs of endpoints.
            build: Builds the snapshot, once, if an output needs one.
            urls: Name of an endpoint to its URL.

        Returns:
            Endpoint to whether its export succeeded. The log has the reason of each failure.

        Raises:
            InvalidInputError: If ``endpoints`` is a string.
        """
        if isinstance(endpoints, str):
            quoted = word_repr(endpoints)
            raise InvalidInputError(f"endpoints={quoted} is a string: pass a list: [{quoted}]")
        await checkpoint()  # raises the error of a missing event loop even if there are no endpoints
        shared = _SharedSnapshot(build)
        deadline = Deadline(self.timeout)
        calls: dict[Destination, Call] = {}

        def begin(found: Iterable[Destination | None]) -> None:
            for each in sorted({each for each in found if each is not None} - calls.keys(), key=_order):
                calls[each] = each.begin(self._system, shared, deadline)

        found = {endpoint: self._known(endpoint, urls) for endpoint in endpoints}
        begin(found.values())
        missing = [endpoint for endpoint, each in found.items() if each is None]
        if missing:
            found |= await self._create_missing(missing, urls, deadline)
            begin(found.values())
        for each, call in calls.items():
            if not await call.wait_async(deadline.seconds_left + 0.05 * self.timeout):
                each.time_out(call, deadline)
        return {endpoint: each is not None and calls[each].has_succeeded for endpoint, each in found.items()}

    def _existing(self, url: str) -> Destination | None:
        known = {each.key: each for each in self._configured} | self._on_demand
        return known.get(url)

    def _create(self, name: str, url: str, beside: Iterable[Destination]) -> Destination:
        from metrics_framework.export.endpoints import make_endpoint

        parsed, output = make_endpoint(url)
        # A name is shown as it was given; a URL may contain secrets.
        shown = str(parsed) if ":" in name else name
        taken = {each.name for each in (*self._given, *beside)}
        number = next(number for number in count(1) if _numbered(shown, number) not in taken)
        return Destination(_numbered(shown, number), output, self._clock, self._usage, url, parsed)

    def _known(self, endpoint: str, urls: Mapping[str, str]) -> Destination | None:
        """Return an existing output by its name or URL."""
        every = [*self._given, *self._configured]
        found = next((each for each in every if each.name == endpoint), None)
        return found or self._existing(urls.get(endpoint, endpoint))

    async def _create_missing(
        self, missing: Iterable[str], urls: Mapping[str, str], deadline: Deadline
    ) -> dict[str, Destination | None]:
        """Return new outputs. They are created in a thread, because that may import modules."""
        found: dict[str, Destination | None] = {}

        def find() -> None:
            with self._creating:
                for endpoint in missing:
                    found[endpoint] = self._find(endpoint, urls)

        worker = Worker("metrics-endpoints")
        await worker.submit(find, deadline).wait_async(deadline.seconds_left)
        worker.stop()
        in_time = dict(found)
        for endpoint in set(missing) - in_time.keys():
            self._fail_creation(endpoint, f"not created within {deadline}")
        return {endpoint: in_time.get(endpoint) for endpoint in missing}

    def _find(self, endpoint: str, urls: Mapping[str, str]) -> Destination | None:
        """Return an output by its name or URL. A missing one is created and remembered."""
        found = self._known(endpoint, urls)
        if found is not None:
            return found
        url = urls.get(endpoint, endpoint)
        try:
            found = self._create(endpoint, url, [*self._configured, *self._on_demand.values()])
        except Exception as error:  # noqa: BLE001 - a third party's endpoint may raise anything
            reason = (
                str(error) if isinstance(error, MetricsError) else f"{type(error).__name__} at its creation"
            )
            self._fail_creation(endpoint, reason)
            return None
        self._creation_errors.pop(endpoint, None)
        _remember(self._on_demand, url, found)
        return found

    def _fail_creation(self, endpoint: str, reason: str) -> None:
        names = [each.name for each in (*self._given, *self._configured)]
        log_event("warning", f"no export: {reason}", outputs=names)
        _remember(self._creation_errors, endpoint, reason)


class _SharedSnapshot:
    """Builds a snapshot at the first call. All calls return it, or raise the error of building it."""

    def __init__(self, build: BuildSnapshot) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._is_built = False
        self._result: FullSnapshot | Exception | None = None

    def __call__(self) -> FullSnapshot | None:
        with self._lock:
            if not self._is_built:
                try:
                    self._result = self._build()
                except Exception as error:  # noqa: BLE001 - raised below, in each call
                    self._result = error
                self._is_built = True
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def _wait_a_moment(calls: Iterable[Call]) -> bool:
    """Return whether all calls are finished within `QUICK_SECONDS`."""
    deadline = Deadline(QUICK_SECONDS)
    return all(call.wait(deadline.seconds_left) for call in calls)


def _order(destination: Destination) -> tuple[bool, bool]:
    """Return a key that sorts local files before servers, and outputs that failed to the end of either."""
    return not destination.is_local, destination.failures > 0


def _remember(kept: dict[str, T], key: str, value: T) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > MAX_ON_DEMAND_ENDPOINTS:
        kept.pop(next(iter(kept)))


def _without_secrets(endpoint: object) -> str:
    """Return a description of an endpoint that was not created."""
    from metrics_framework.export.endpoints import quotable_scheme

    if not isinstance(endpoint, str):
        return type(endpoint).__name__
    return f"{quotable_scheme(endpoint)}{':…' if ':' in endpoint else ''}"


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"
