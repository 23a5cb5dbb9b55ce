"""Exports of a system: in sequence at the interval and at shutdown, or concurrently on demand.

Each output has a `Destination`, which knows the result of its last export and retries failed snapshots.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from metrics_framework.clock import Clock
from metrics_framework.errors import InvalidInputError, MetricsError
from metrics_framework.export.outputs import (
    DistributionOutput,
    FullSnapshot,
    Output,
    name_of,
    takes_snapshots,
)
from metrics_framework.log import Isolation, log_event
from metrics_framework.protocols import MetricsSystem

if TYPE_CHECKING:
    from metrics_framework.callbacks.calls import Callback, CallRunner
    from metrics_framework.export.endpoints import EndpointUrl

T = TypeVar("T")

FINAL_TRIES = 3
"""How often the final snapshot is tried."""
FINAL_PAUSE_SECONDS = 0.5
"""The pause between two of these tries."""
DEFAULT_EXPORT_TIMEOUT_SECONDS = 30.0
"""The time limit of each endpoint in `MetricsSystem.export_metrics_async`."""
MAX_ON_DEMAND_ENDPOINTS = 100
"""How many endpoints are remembered that were exported to without being configured."""
FIRST_PAUSE_SECONDS = 1.0
"""The pause after a first failure; each further failure doubles it."""
MAX_PAUSE_SECONDS = 300.0
MAX_PENDING_SNAPSHOTS = 10
"""How many snapshots are pending for one output; the oldest is discarded for the next."""


class Destination:
    """An output, the result of its last export, and the snapshots that are pending for it.

    A snapshot that an output refuses with an ``OSError``, because a disk is full or a folder is gone, is
    pending: it is retried with the next snapshot, and the final one a few more times. An output of the
    system's current numbers has nothing pending; after a failure it pauses.

    Args:
        name: The name in results and logs.
        output: The output.
        key: Its name or URL in the configuration. A URL may contain secrets.
        url: The URL that it was created from, if any.

    Attributes:
        takes_snapshots: Whether it receives snapshots; otherwise it receives the system.
        reason: Why the last export failed; ``None`` if it succeeded.
        failures: The number of failures since the last success.
        pending: The snapshots to retry, the newest last.
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
        self.pending: deque[FullSnapshot] = deque(maxlen=MAX_PENDING_SNAPSHOTS)
        self._discarded = 0
        self._url = url
        self._not_before_ns = 0

    def is_due(self, now_ns: int) -> bool:
        """Return whether its pause is over. An output of snapshots never pauses: each snapshot is new."""
        return self.takes_snapshots or self.failures == 0 or now_ns >= self._not_before_ns

    def deliver(
        self, system: MetricsSystem, snapshot: FullSnapshot | None, *, retry_later: bool = False
    ) -> None:
        """Write the snapshot and retry the pending ones, or export the system.

        Args:
            system: The system.
            snapshot: For an output of snapshots.
            retry_later: Whether a snapshot that is refused becomes pending.
        """
        if not self.takes_snapshots:
            self.output.export(system)
        elif snapshot is not None:
            self._write(snapshot, retry_later)
            self.retry()

    def retry(self) -> None:
        """Write the pending snapshots, the newest first, until one is refused."""
        late = 0
        while self._write_pending():
            late += 1
        if late:
            lost, self._discarded = self._discarded, 0
            level = "warning" if lost else "info"
            log_event(level, "snapshots written late", output=self.name, written=late, lost=lost)

    def discard(self) -> None:
        """Discard the pending snapshots, and log how many are lost."""
        lost = self._discarded + len(self.pending)
        self.pending.clear()
        if lost:
            log_event("error", "snapshots lost", output=self.name, lost=lost)

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
        except IndexError:  # nothing is pending, or another thread was faster
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

    def succeed(self) -> None:
        """Record a success."""
        self.failures, self.reason = 0, None

    def fail(self, reason: str, now_ns: int) -> None:
        """Record a failure, and pause: twice as long each time, less a random part."""
        import random  # slow to import, and only needed after a failure

        # The exponent is bounded because floats are.
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self.failures, 16))
        self._not_before_ns = now_ns + int(pause * random.uniform(0.5, 1.0) * 1e9)  # noqa: S311 - not a secret
        self.failures += 1
        self.reason = reason if self._url is None else self._url.redacted(reason)

    def log(self) -> None:
        """Log why the last export failed."""
        event = "snapshot not written" if self.takes_snapshots else "metrics not exported"
        log_event("error", event, output=self.name, error=self.reason)


class Outputs:
    """The outputs of a system.

    Args:
        system: Their system.
        given: Outputs that were passed in. A configuration does not remove them.
        clock: Measures pauses.

    Raises:
        InvalidInputError: If one of them has no name, or neither ``write`` nor ``export``.
    """

    def __init__(self, system: MetricsSystem, given: Iterable[Output], clock: Clock) -> None:
        self._system = system
        self._clock = clock
        if isinstance(given, str):
            raise InvalidInputError(
                f"outputs={given!r} is a string: pass a list of outputs, such as"
                " [SnapshotWriter('snapshots')]; names and URLs belong in export_endpoints of the"
                " configuration"
            )
        self._given = [Destination(name_of(output), output) for output in given]
        self._configured: list[Destination] = []
        self._on_demand: dict[str, Destination] = {}
        self._creation_errors: dict[str, str] = {}
        self._runner: CallRunner | None = None
        self._creating = threading.Lock()  # concurrent exports create an endpoint once
        # Weak: an endpoint that is no longer remembered may still be exporting.
        self._of_works: WeakValueDictionary[Callback, Destination] = WeakValueDictionary()

    @property
    def failures(self) -> dict[str, str]:
        """The outputs whose last export failed: name to reason."""
        every = (*self._given, *self._configured, *list(self._on_demand.values()))
        return self._creation_errors | {each.name: each.reason for each in every if each.reason is not None}

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
        self._configured = prepared
        for each in prepared:
            self._on_demand.pop(each.key, None)
            if each.name in gone:
                each.pending.extend(gone.pop(each.name).pending)
        for other in gone.values():
            other.discard()

    def move_to(self, other: Outputs) -> None:
        """Move all outputs to another system, except those that it has already."""
        moved = [*self._given, *self._configured]
        self._given, self._configured = [], []
        there = [each.output for each in (*other._given, *other._configured)]
        other._given = [*other._given, *(each for each in moved if each.output not in there)]

    def begin_in_child(self) -> None:
        """Leave pending snapshots to the parent."""
        self._creating = threading.Lock()
        for each in (*self._given, *self._configured):
            each.pending.clear()

    def write_final(self, build: Callable[[], FullSnapshot | None], isolation: Isolation) -> None:
        """Write the final snapshot as `write` does, retry what is pending, and discard the rest."""
        self.write(build, isolation)
        every = [*self._given, *self._configured]
        for _ in range(FINAL_TRIES - 1):
            waiting = [each for each in every if each.pending]
            if waiting:
                time.sleep(FINAL_PAUSE_SECONDS)
            for each in waiting:
                each.retry()
        for each in every:
            each.discard()

    def write(
        self, build: Callable[[], FullSnapshot | None], isolation: Isolation, *, at_interval: bool = False
    ) -> None:
        """Deliver one snapshot, or the system, to each output in sequence, and retry what is pending.

        Args:
            build: Builds the snapshot, if an output needs one. It returns ``None`` if nothing was measured.
            isolation: Logs an error of ``build``.
            at_interval: Whether outputs pause after a failure, and log it once until they succeed again.
        """
        now_ns = self._clock.monotonic_ns()
        every = [*self._given, *self._configured]
        chosen = [each for each in every if not at_interval or each.is_due(now_ns)]
        of_snapshots = [each.name for each in chosen if each.takes_snapshots]
        snapshot = (
            isolation.call("snapshot not written", build, outputs=of_snapshots) if of_snapshots else None
        )
        # Those that failed come last: a slow failure does not delay the others.
        for each in sorted(chosen, key=lambda each: each.failures > 0):
            if each.takes_snapshots and snapshot is None:
                continue
            try:
                each.deliver(self._system, snapshot, retry_later=True)
            except Exception as error:  # noqa: BLE001 - an output may raise anything
                is_new = each.failures == 0 or not at_interval
                each.fail(repr(error), self._clock.monotonic_ns())
                if is_new:
                    each.log()
            else:
                each.succeed()

    async def export(
        self,
        endpoints: Iterable[str],
        build: Callable[[], FullSnapshot],
        urls: Mapping[str, str],
        timeout: float,
    ) -> dict[str, bool]:
        """Export to several endpoints concurrently, each in its own thread with a time limit.

        Args:
            endpoints: Names of outputs, or names or URLs of endpoints.
            build: Builds the snapshot, once, if an output needs one.
            urls: Name of an endpoint to its URL.
            timeout: The time limit of each endpoint in seconds.

        Returns:
            Endpoint to whether its export succeeded. The log has the reason of each failure.

        Raises:
            InvalidInputError: If ``endpoints`` is a string.
        """
        if isinstance(endpoints, str):
            from metrics_framework.export.endpoints import hide_urls

            quoted = hide_urls(repr(endpoints))
            raise InvalidInputError(f"endpoints={quoted} is a string: pass a list: [{quoted}]")
        from metrics_framework.callbacks.collection import collect_async

        snapshot = _SharedSnapshot(build)
        known = {endpoint: self._known(endpoint, urls) for endpoint in endpoints}
        found = known if all(known.values()) else await self._found(known, urls, timeout)
        works = {each: self._work(each, snapshot, timeout) for each in found.values() if each is not None}
        if works:
            await collect_async(self._call_runner(), works.values())
        return {
            endpoint: each is not None and works[each].failure is None for endpoint, each in found.items()
        }

    def _existing(self, url: str) -> Destination | None:
        known = {each.key: each for each in self._configured} | self._on_demand
        return known.get(url)

    def _create(self, name: str, url: str, beside: Iterable[Destination]) -> Destination:
        from metrics_framework.export.endpoints import make_endpoint

        parsed, output = make_endpoint(url)
        name_of(output)
        # A name is shown as it was given; a URL may contain secrets.
        shown = str(parsed) if ":" in name else name
        taken = {each.name for each in (*self._given, *beside)}
        number = next(number for number in count(1) if _numbered(shown, number) not in taken)
        return Destination(_numbered(shown, number), output, url, parsed)

    def _known(self, endpoint: str, urls: Mapping[str, str]) -> Destination | None:
        """Return an existing output by its name or URL."""
        every = [*self._given, *self._configured]
        found = next((each for each in every if each.name == endpoint), None)
        return found or self._existing(urls.get(endpoint, endpoint))

    async def _found(
        self, known: Mapping[str, Destination | None], urls: Mapping[str, str], timeout: float
    ) -> dict[str, Destination | None]:
        """Return the outputs. Missing ones are created in a thread, because that may import modules."""
        from metrics_framework.callbacks.calls import Callback
        from metrics_framework.callbacks.collection import collect_async

        found: dict[str, Destination | None] = {}

        def find() -> None:
            with self._creating:
                for endpoint in known:
                    found[endpoint] = self._find(endpoint, urls)

        await collect_async(self._call_runner(), [Callback("endpoints", find, timeout)])
        in_time = dict(found)
        for endpoint in known.keys() - in_time.keys():
            self._fail_creation(endpoint, f"not created within {timeout:g} seconds")
        return {endpoint: in_time.get(endpoint) for endpoint in known}

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
        self._creation_errors.pop(_without_secrets(endpoint), None)
        _remember(self._on_demand, url, found)
        return found

    def _fail_creation(self, endpoint: str, reason: str) -> None:
        names = [each.name for each in (*self._given, *self._configured)]
        log_event("warning", f"no export: {reason}", outputs=names)
        _remember(self._creation_errors, _without_secrets(endpoint), reason)

    def _work(self, destination: Destination, snapshot: _SharedSnapshot, timeout: float) -> Callback:
        from metrics_framework.callbacks.calls import Callback

        work = destination.work or Callback(destination.name, _nothing, timeout)
        destination.work = work
        self._of_works[work] = destination
        # A call that is still running keeps its old function and deadline, and this export joins it.
        work.function, work.deadline = partial(self._export, destination, snapshot), timeout
        return work

    def _export(self, destination: Destination, snapshot: _SharedSnapshot) -> None:
        destination.deliver(self._system, snapshot() if destination.takes_snapshots else None)

    def _call_runner(self) -> CallRunner:
        from metrics_framework.callbacks.calls import CallRunner

        if self._runner is None:
            self._runner = CallRunner(self._take, self._failed)
        return self._runner

    def _take(self, work: Callback, _: object) -> None:
        destination = self._of_works.get(work)
        if destination is not None:
            destination.succeed()

    def _failed(self, work: Callback, _: str, reason: str) -> None:
        destination = self._of_works.get(work)
        work.failure = "failed"  # the destination has the reason, without secrets
        if destination is not None:
            destination.fail(reason, self._clock.monotonic_ns())
            destination.log()


class _SharedSnapshot:
    """Builds a snapshot at the first call. All calls return it, or raise the error of building it."""

    def __init__(self, build: Callable[[], FullSnapshot]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._result: FullSnapshot | Exception | None = None

    def __call__(self) -> FullSnapshot:
        with self._lock:
            if self._result is None:
                try:
                    self._result = self._build()
                except Exception as error:  # noqa: BLE001 - raised below, in each call
                    self._result = error
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def _remember(kept: dict[str, T], key: str, value: T) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > MAX_ON_DEMAND_ENDPOINTS:
        kept.pop(next(iter(kept)))


def _without_secrets(endpoint: object) -> str:
    text = endpoint if isinstance(endpoint, str) else repr(endpoint)
    scheme, colon, _ = text.partition(":")
    return f"{scheme}:…" if colon else text


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"


def _nothing() -> None: ...
