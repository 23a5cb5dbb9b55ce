"""Exports of a system: one after the other at the interval and at the end, or all at once when asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from metrics_framework.clock import Clock
from metrics_framework.errors import MetricsError
from metrics_framework.export.destination import Destination
from metrics_framework.export.outputs import FullSnapshot, Output, name_of
from metrics_framework.log import Isolation, log_event
from metrics_framework.protocols import MetricsSystem

if TYPE_CHECKING:
    from metrics_framework.callbacks.calls import Callback, CallRunner

T = TypeVar("T")

LAST_TRIES = 3
"""How often a final snapshot is tried."""
LAST_PAUSE = 0.5
"""Seconds between two of these tries."""
EXPORT_TIMEOUT = 30.0
"""Seconds after which `MetricsSystem.export_metrics_async` waits for an endpoint no longer."""
MOST_ON_DEMAND = 100
"""How many endpoints that were asked for without being configured are remembered."""


class Outputs:
    """The outputs of a system.

    Args:
        system: Whose outputs they are.
        given: Those that were passed in; they stay, whatever is configured.
        clock: What pauses are told by.

    Raises:
        InvalidInputError: If one of them has no name or nothing that takes what the system holds.
    """

    def __init__(self, system: MetricsSystem, given: Iterable[Output], clock: Clock) -> None:
        self._system = system
        self._clock = clock
        self._given = [Destination(name_of(output), output) for output in given]
        self._configured: list[Destination] = []
        self._on_demand: dict[str, Destination] = {}
        self._unmade: dict[str, str] = {}
        self._evaluator: CallRunner | None = None
        self._making = threading.Lock()  # two exports at once make an endpoint once
        # Weak, as one that is forgotten may be at an export yet.
        self._of_works: WeakValueDictionary[Callback, Destination] = WeakValueDictionary()

    @property
    def failures(self) -> dict[str, str]:
        """Name to the reason of the last failure, of those whose last export failed."""
        every = (*self._given, *self._configured, *list(self._on_demand.values()))
        return self._unmade | {each.name: each.reason for each in every if each.reason is not None}

    def prepare(self, endpoints: Mapping[str, str]) -> list[Destination]:
        """Make what a configuration names; what there is already is kept, with what it knows.

        Args:
            endpoints: Name or URL, as it was given, to the URL that it stands for.

        Raises:
            ConfigurationError: If there is no such endpoint, or its URL says what is not allowed.
        """
        given = {each.name for each in self._given}
        prepared: list[Destination] = []
        for name, url in endpoints.items():
            if name not in given:
                prepared.append(self._existing(url) or self._make(name, url, prepared))
        return prepared

    def configure(self, prepared: list[Destination]) -> None:
        """Use these in place of those that were configured before.

        What is owed to one is owed to that which has its name now, or given up where none has.
        """
        gone = {each.name: each for each in self._configured if each not in prepared}
        self._configured = prepared
        for each in prepared:
            self._on_demand.pop(each.key, None)
            if each.name in gone:
                each.owed.extend(gone.pop(each.name).owed)
        for other in gone.values():
            other.give_up()

    def move_to(self, other: Outputs) -> None:
        """Leave all of them to another system, which gets none twice."""
        moved = [*self._given, *self._configured]
        self._given, self._configured = [], []
        there = [each.output for each in (*other._given, *other._configured)]
        other._given = [*other._given, *(each for each in moved if each.output not in there)]

    def begin_in_child(self) -> None:
        """Leave what is owed to the parent."""
        self._making = threading.Lock()
        for each in (*self._given, *self._configured):
            each.owed.clear()

    def write_last(self, build: Callable[[], FullSnapshot | None], isolation: Isolation) -> None:
        """Write the final snapshot as `write` does, and try again what is owed then; the rest is given up."""
        self.write(build, isolation)
        every = [*self._given, *self._configured]
        for _ in range(LAST_TRIES - 1):
            waiting = [each for each in every if each.owed]
            if waiting:
                time.sleep(LAST_PAUSE)
            for each in waiting:
                each.settle()
        for each in every:
            each.give_up()

    def write(
        self, build: Callable[[], FullSnapshot | None], isolation: Isolation, *, patiently: bool = False
    ) -> None:
        """Write one snapshot, or what the system holds, to each output, and what is owed to it.

        It is done one after the other. A snapshot that an output refuses is owed to it.

        Args:
            build: Makes the snapshot; called only where it is needed. ``None`` is nothing to write.
            isolation: Logs it if no snapshot can be made.
            patiently: Whether one that failed is left alone for a while. Its failures are logged once until
                it succeeds again.
        """
        now_ns = self._clock.monotonic_ns()
        every = [*self._given, *self._configured]
        chosen = [each for each in every if not patiently or each.is_due(now_ns)]
        of_snapshots = [each.name for each in chosen if each.takes_snapshots]
        snapshot = (
            isolation.call("snapshot not written", build, outputs=of_snapshots) if of_snapshots else None
        )
        # Those that failed come last: one that takes its time to fail again holds up no other.
        for each in sorted(chosen, key=lambda each: each.failures > 0):
            if each.takes_snapshots and snapshot is None:
                continue
            try:
                each.give(self._system, snapshot, owe=True)
            except Exception as error:  # noqa: BLE001 - an output may raise anything
                is_new = each.failures == 0 or not patiently
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
        """Export to several endpoints at once, each in a thread of its own and within a time limit.

        Args:
            endpoints: Names of outputs, or names and URLs of endpoints.
            build: Makes the snapshot, once, if it is needed.
            urls: What names of endpoints stand for.
            timeout: Seconds that each has.

        Returns:
            Endpoint to whether it succeeded; why it did not is in the log.
        """
        from metrics_framework.callbacks.collection import collect_async

        snapshot = _Once(build)
        known = {endpoint: self._known(endpoint, urls) for endpoint in endpoints}
        found = known if all(known.values()) else await self._found(known, urls, timeout)
        works = {each: self._work(each, snapshot, timeout) for each in found.values() if each is not None}
        if works:
            await collect_async(self._all_at_once(), works.values())
        return {
            endpoint: each is not None and works[each].failure is None for endpoint, each in found.items()
        }

    def _existing(self, url: str) -> Destination | None:
        known = {each.key: each for each in self._configured} | self._on_demand
        return known.get(url)

    def _make(self, name: str, url: str, beside: Iterable[Destination]) -> Destination:
        from metrics_framework.export.endpoints import make_endpoint

        parsed, output = make_endpoint(url)
        name_of(output)
        # A name is shown as it was given; a URL may have secrets.
        shown = str(parsed) if ":" in name else name
        taken = {each.name for each in (*self._given, *beside)}
        number = next(number for number in count(1) if _numbered(shown, number) not in taken)
        return Destination(_numbered(shown, number), output, url, parsed)

    def _known(self, endpoint: str, urls: Mapping[str, str]) -> Destination | None:
        """Return the output that is meant, if it is there already."""
        every = [*self._given, *self._configured]
        found = next((each for each in every if each.name == endpoint), None)
        return found or self._existing(urls.get(endpoint, endpoint))

    async def _found(
        self, known: Mapping[str, Destination | None], urls: Mapping[str, str], timeout: float
    ) -> dict[str, Destination | None]:
        """Return the outputs that are meant; making one may have modules imported, which takes its time."""
        from metrics_framework.callbacks.calls import Callback
        from metrics_framework.callbacks.collection import collect_async

        found: dict[str, Destination | None] = {}

        def find() -> None:
            with self._making:
                for endpoint in known:
                    found[endpoint] = self._find(endpoint, urls)

        await collect_async(self._all_at_once(), [Callback("endpoints", find, timeout)])
        in_time = dict(found)
        for endpoint in known.keys() - in_time.keys():
            self._do_without(endpoint, f"not made within {timeout:g} s")
        return {endpoint: in_time.get(endpoint) for endpoint in known}

    def _find(self, endpoint: str, urls: Mapping[str, str]) -> Destination | None:
        """Return the output that is meant; one that is not there yet is made, and remembered."""
        found = self._known(endpoint, urls)
        if found is not None:
            return found
        url = urls.get(endpoint, endpoint)
        try:
            found = self._make(endpoint, url, [*self._configured, *self._on_demand.values()])
        except Exception as error:  # noqa: BLE001 - a third party's endpoint may raise anything
            reason = (
                str(error) if isinstance(error, MetricsError) else f"cannot be made ({type(error).__name__})"
            )
            self._do_without(endpoint, reason)
            return None
        self._unmade.pop(_without_secrets(endpoint), None)
        _keep(self._on_demand, url, found)
        return found

    def _do_without(self, endpoint: str, reason: str) -> None:
        names = [each.name for each in (*self._given, *self._configured)]
        log_event("warning", f"no export: {reason}", outputs=names)
        _keep(self._unmade, _without_secrets(endpoint), reason)

    def _work(self, destination: Destination, snapshot: _Once, timeout: float) -> Callback:
        from metrics_framework.callbacks.calls import Callback

        work = destination.work or Callback(destination.name, _nothing, timeout)
        destination.work = work
        self._of_works[work] = destination
        # A call that has not returned yet goes on with what it had; it is joined, and given up again.
        work.function, work.deadline = partial(self._export, destination, snapshot), timeout
        return work

    def _export(self, destination: Destination, snapshot: _Once) -> None:
        destination.give(self._system, snapshot() if destination.takes_snapshots else None)

    def _all_at_once(self) -> CallRunner:
        from metrics_framework.callbacks.calls import CallRunner

        if self._evaluator is None:
            self._evaluator = CallRunner(self._take, self._failed)
        return self._evaluator

    def _take(self, work: Callback, _: object) -> None:
        destination = self._of_works.get(work)
        if destination is not None:
            destination.succeed()

    def _failed(self, work: Callback, _: str, reason: str) -> None:
        destination = self._of_works.get(work)
        work.failure = "failed"  # why is for the destination to say, without secrets
        if destination is not None:
            destination.fail(reason, self._clock.monotonic_ns())
            destination.log()


class _Once:
    """Makes a snapshot when the first asks for one, for all that ask."""

    def __init__(self, build: Callable[[], FullSnapshot]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._made: FullSnapshot | Exception | None = None

    def __call__(self) -> FullSnapshot:
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._build()
                except Exception as error:  # noqa: BLE001 - raised below, for each that asks
                    self._made = error
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


def _keep(kept: dict[str, T], key: str, value: T) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > MOST_ON_DEMAND:
        kept.pop(next(iter(kept)))


def _without_secrets(endpoint: object) -> str:
    text = endpoint if isinstance(endpoint, str) else repr(endpoint)
    scheme, colon, _ = text.partition(":")
    return f"{scheme}:…" if colon else text


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"


def _nothing() -> None: ...
