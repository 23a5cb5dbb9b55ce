"""Exports of a system: one after the other at the interval and at the end, or all at once when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from metrics_framework.clock import Clock
from metrics_framework.errors import MetricsError
from metrics_framework.faults import Faults
from metrics_framework.logs import log_event
from metrics_framework.outputs import Output, name_of, takes_snapshots
from metrics_framework.protocols import MetricsSystem
from metrics_framework.snapshots import PerformanceSnapshot

if TYPE_CHECKING:
    from metrics_framework.callbacks.evaluator import Evaluator
    from metrics_framework.callbacks.work import Work
    from metrics_framework.endpoints import EndpointUrl

T = TypeVar("T")

FIRST_PAUSE = 1.0
"""Seconds without a try after a first failure; each further one doubles them."""
LONGEST_PAUSE = 300.0
EXPORT_TIMEOUT = 30.0
"""Seconds after which `MetricsSystem.export_metrics_async` waits for an endpoint no longer."""
MOST_ON_DEMAND = 100
"""How many endpoints that were asked for without being configured are remembered."""


class Destination:
    """An output, and how it went.

    Args:
        name: What results and logs call it.
        output: The output.
        key: What a configuration calls it: a name or a URL, which may have secrets.
        url: The URL that it was made of, if it was.

    Attributes:
        reason: Why the last export failed; ``None`` where it did not.
    """

    def __init__(
        self, name: str, output: Output, key: str | None = None, url: EndpointUrl | None = None
    ) -> None:
        self.name = name
        self.output = output
        self.key = name if key is None else key
        self.reason: str | None = None
        self.failures = 0
        self.work: Work | None = None
        self._url = url
        self._not_before_ns = 0

    @property
    def event(self) -> str:
        """What the log calls a failure."""
        return "snapshot not written" if takes_snapshots(self.output) else "metrics not exported"

    def is_due(self, now_ns: int) -> bool:
        """Say whether the pause after the last failure is over."""
        return self.failures == 0 or now_ns >= self._not_before_ns

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
        log_event("error", self.event, output=self.name, error=self.reason)


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
        self._evaluator: Evaluator | None = None
        # Weak, as one that is forgotten may be at an export yet.
        self._of_works: WeakValueDictionary[Work, Destination] = WeakValueDictionary()

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
        """Use these in place of those that were configured before."""
        self._configured = prepared
        for each in prepared:
            self._on_demand.pop(each.key, None)

    def write(
        self, build: Callable[[], PerformanceSnapshot | None], faults: Faults, *, patiently: bool = False
    ) -> None:
        """Write one snapshot, or what the system holds, to each output, one after the other.

        Args:
            build: Makes the snapshot; called only where it is needed. ``None`` is nothing to write.
            faults: Logs it if no snapshot can be made.
            patiently: Whether one that failed is left alone for a while. Its failures are logged once until
                it succeeds again.
        """
        now_ns = self._clock.monotonic_ns()
        every = [*self._given, *self._configured]
        chosen = [each for each in every if not patiently or each.is_due(now_ns)]
        of_snapshots = [each.name for each in chosen if takes_snapshots(each.output)]
        snapshot = (
            faults.attempt("snapshot not written", build, outputs=of_snapshots) if of_snapshots else None
        )
        # Those that failed come last: one that takes its time to fail again holds up no other.
        for each in sorted(chosen, key=lambda each: each.failures > 0):
            if takes_snapshots(each.output):
                if snapshot is None:
                    continue
                work = partial(each.output.write, snapshot)
            else:
                work = partial(each.output.export, self._system)
            try:
                work()
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
        build: Callable[[], PerformanceSnapshot],
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
        from metrics_framework.callbacks.looking import looking

        snapshot = _Once(build)
        found = {endpoint: self._find(endpoint, urls) for endpoint in endpoints}
        works = {each: self._work(each, snapshot, timeout) for each in found.values() if each is not None}
        if works:
            await looking()(self._all_at_once(), works.values())
        return {
            endpoint: each is not None and works[each].failure is None for endpoint, each in found.items()
        }

    def _existing(self, url: str) -> Destination | None:
        known = {each.key: each for each in self._configured} | self._on_demand
        return known.get(url)

    def _make(self, name: str, url: str, beside: Iterable[Destination]) -> Destination:
        from metrics_framework.endpoints import make_endpoint

        parsed, output = make_endpoint(url)
        name_of(output)
        # A name is shown as it was given; a URL may have secrets.
        shown = str(parsed) if ":" in name else name
        taken = {each.name for each in (*self._given, *beside)}
        number = next(number for number in count(1) if _numbered(shown, number) not in taken)
        return Destination(_numbered(shown, number), output, url, parsed)

    def _find(self, endpoint: str, urls: Mapping[str, str]) -> Destination | None:
        """Return the output that is meant; one that is not there yet is made, and remembered."""
        every = [*self._given, *self._configured]
        found = next((each for each in every if each.name == endpoint), None)
        url = urls.get(endpoint, endpoint)
        found = found or self._existing(url)
        if found is not None:
            return found
        try:
            found = self._make(endpoint, url, [*self._configured, *self._on_demand.values()])
        except Exception as error:  # noqa: BLE001 - a third party's endpoint may raise anything
            reason = (
                str(error) if isinstance(error, MetricsError) else f"cannot be made ({type(error).__name__})"
            )
            log_event("warning", f"no export: {reason}", outputs=[each.name for each in every])
            _keep(self._unmade, _without_secrets(endpoint), reason)
            return None
        self._unmade.pop(_without_secrets(endpoint), None)
        _keep(self._on_demand, url, found)
        return found

    def _work(self, destination: Destination, snapshot: _Once, timeout: float) -> Work:
        from metrics_framework.callbacks.work import Work

        work = destination.work or Work(destination.name, _nothing, timeout, {}, records=False)
        destination.work = work
        self._of_works[work] = destination
        # A call that has not returned yet goes on with what it had; it is joined, and given up again.
        work.function, work.deadline = partial(self._export, destination.output, snapshot), timeout
        return work

    def _export(self, output: Output, snapshot: _Once) -> None:
        if takes_snapshots(output):
            output.write(snapshot())
        else:
            output.export(self._system)

    def _all_at_once(self) -> Evaluator:
        from metrics_framework.callbacks.evaluator import Evaluator

        if self._evaluator is None:
            self._evaluator = Evaluator(self._take, self._failed)
        return self._evaluator

    def _take(self, work: Work, _: object) -> None:
        destination = self._of_works.get(work)
        if destination is not None:
            destination.succeed()

    def _failed(self, work: Work, _: str, reason: str) -> None:
        destination = self._of_works.get(work)
        work.failure = "failed"  # why is for the destination to say, without secrets
        if destination is not None:
            destination.fail(reason, self._clock.monotonic_ns())
            destination.log()


class _Once:
    """Makes a snapshot when the first asks for one, for all that ask."""

    def __init__(self, build: Callable[[], PerformanceSnapshot]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._made: PerformanceSnapshot | Exception | None = None

    def __call__(self) -> PerformanceSnapshot:
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
