"""The dashboards of the stream endpoint: one document for all clients with the same query."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from metrics_adapters.http.scrape import SharedCalls, in_thread, settle
from metrics_framework import __version__
from metrics_framework.dashboard import WINDOW
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation
from metrics_framework.recording.store import store_of
from metrics_framework.runtime.event_loops import create_event, run_within
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.system import MetricsSystem
from metrics_framework.validation import check_choice, safe_repr

DASHBOARD_TYPES = ("overview", "performance", "errors", "resources", "batch")

MIN_PERIOD_SECONDS = 2.0
"""The shortest time between two documents of one query."""

MAX_CPU_SHARE = 0.1
"""The share of one CPU that all documents together may take.

Half of it is for first documents, and half for the next ones, so that clients which come and go make no
document rarer that others follow. More expensive documents are made more rarely.
"""

FIRST_CPU_SECONDS = 5.0
"""The CPU time that first documents may take at once, after a time without any.

Twenty of them, for someone who looks through the page, take 3 seconds with 20 000 series.
"""

MIN_WINDOW_SECONDS = 60
MAX_WINDOW_SECONDS = 30 * 86_400

_HALF_SHARE = MAX_CPU_SHARE / 2
_MIN_WAIT_SECONDS = 0.01


class DashboardQuery(NamedTuple):
    """What a client wants to see.

    Attributes:
        type: The type of the dashboard.
        window_seconds: How far back it looks.
        tags: The tags that all series must have, sorted.
    """

    type: str
    window_seconds: float
    tags: tuple[tuple[str, str], ...]


class DashboardDocument(NamedTuple):
    """A document, or the report of its failure.

    Attributes:
        event: The text of the event for clients.
        due: When the next one may be made, in seconds of the monotonic clock.
        cost_seconds: The CPU time that it took.
    """

    event: bytes
    due: float
    cost_seconds: float


class Dashboards:
    """Makes the documents of all queries, one at a time and in a thread.

    Args:
        system: The system.
        clients: Returns the numbers of stream clients, as in the event.
        history: Whether the page has a history of runs.
        timeout: How many seconds clients wait for a document.
        max_queries: The number of documents that wait to be made.
    """

    def __init__(
        self,
        system: MetricsSystem,
        clients: Callable[[], Mapping[str, int]],
        *,
        history: bool,
        timeout: float,
        max_queries: int,
    ) -> None:
        self._system = system
        self._clients = clients
        self._history = history
        self._timeout = timeout
        self._calls = SharedCalls[DashboardDocument](timeout, max_queries)
        self._isolation = Isolation()
        self._store = store_of(system.collector)
        self.reset()
        reset_after_fork(self, Dashboards.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Forget all documents: those of the parent have its numbers."""
        self._changed = threading.Condition()  # the lock of all that follows
        self._latest: dict[DashboardQuery, DashboardDocument] = {}
        self._followers: Counter[DashboardQuery] = Counter()
        self._waiting: dict[DashboardQuery, Future[DashboardDocument]] = {}
        self._is_working = False
        self._first_seconds = FIRST_CPU_SECONDS  # what is left of it, at this time
        self._first_at = time.monotonic()

    @contextmanager
    def follow(self, query: DashboardQuery) -> Iterator[None]:
        """Keep the documents of a query in this block. At the end of the last one, they are forgotten."""
        with self._changed:
            self._followers[query] += 1
        try:
            yield
        finally:
            with self._changed:
                self._followers[query] -= 1
                unwanted = self._forget(query) if self._followers[query] <= 0 else None
            if unwanted is not None:
                unwanted.set_exception(RuntimeError("all clients have left"))

    def _forget(self, query: DashboardQuery) -> Future[DashboardDocument] | None:
        """Forget a query, and return the call that waits for its document. The lock is held."""
        del self._followers[query]
        self._latest.pop(query, None)
        self._changed.notify()
        return self._waiting.pop(query, None)

    def query(self, fields: Mapping[str, str], tags: Mapping[str, str]) -> DashboardQuery:
        """Return the query of a client.

        Args:
            fields: ``dashboard`` and ``window``.
            tags: The tags.

        Raises:
            InvalidInputError: If a value is not allowed.
        """
        check_choice("dashboard", fields["dashboard"], DASHBOARD_TYPES)
        window = _checked_window(fields["window"]) if "window" in fields else WINDOW.total_seconds()
        if self._store is not None:  # other aggregators have a retention of their own
            window = min(window, self._store.retention.total_seconds())
        return DashboardQuery(fields["dashboard"], window, tuple(sorted(tags.items())))

    async def next(self, query: DashboardQuery, last: DashboardDocument | None) -> DashboardDocument:
        """Wait until it is time for a document that a client has not received, and return it.

        Args:
            query: The query of the client.
            last: The document that it received last; ``None`` for none.
        """
        while True:
            latest = self._latest.get(query)
            now = time.monotonic()
            if latest is None or latest.due <= now:
                return await self._made(query)
            if latest is not last:
                return latest
            await run_within(latest.due - now, create_event().wait)

    async def _made(self, query: DashboardQuery) -> DashboardDocument:
        call = self._calls.call(partial(self._enqueue, query), query)
        await call.wait_async(self._timeout)
        made = self._isolation.call("a dashboard is not made", call.outcome, dashboard=query.type)
        if made is not None:
            return made
        await run_within(MIN_PERIOD_SECONDS, create_event().wait)  # the next attempt may fail at once
        return self._failure("the dashboard takes too long, or too many are made: see the log")

    def _enqueue(self, query: DashboardQuery, future: Future[DashboardDocument]) -> None:
        with self._changed:
            if not self._is_working:
                in_thread(self._work)(Future())
                self._is_working = True
            self._waiting[query] = future
            self._changed.notify()

    def _work(self) -> None:
        """Make the documents that clients wait for, until there are none."""
        while (query := self._next_query()) is not None:
            with self._changed:
                future = self._waiting.pop(query, None)  # its clients may just have left
            if future is not None:
                settle(future, partial(self._make, query))

    def _next_query(self) -> DashboardQuery | None:
        """Wait until a document may be made, and return the first such query; ``None`` if no client waits.

        First documents wait while they have used up their CPU time, and others overtake them.
        """
        with self._changed:
            while self._waiting:
                missing = -self._refill()
                for query in self._waiting:
                    if missing < 0 or query in self._latest:
                        return query
                self._changed.wait(missing / _HALF_SHARE + _MIN_WAIT_SECONDS)
            self._is_working = False
            return None

    def _refill(self) -> float:
        """Return the CPU seconds that first documents may take now. The lock is held."""
        now = time.monotonic()
        earned = (now - self._first_at) * _HALF_SHARE
        self._first_seconds = min(self._first_seconds + earned, FIRST_CPU_SECONDS)
        self._first_at = now
        return self._first_seconds

    def _make(self, query: DashboardQuery) -> DashboardDocument:
        with self._changed:
            latest = self._latest.get(query)
        if latest is not None and time.monotonic() < latest.due:
            return latest  # it was made while this call was started
        if self._system.is_shut_down:
            return self._failure("the metrics system is shut down")
        begin_cpu = time.thread_time()
        parts = self._isolation.call("a dashboard failed", partial(self._parts, query), dashboard=query.type)
        cost_seconds = time.thread_time() - begin_cpu
        with self._changed:
            if query not in self._latest:
                self._first_seconds -= cost_seconds
            if parts is None:
                made = self._failure("the dashboard failed: see the log")
            else:
                made = self._document(query, parts, cost_seconds)
            if query in self._followers:
                self._latest[query] = made
        return made

    def _parts(self, query: DashboardQuery) -> str:
        parts = {
            "dashboard": create_dashboard_data(self._system, query),
            "health": self._system.get_system_health(),
            "clients": self._clients(),
            "service": {
                "tags": {} if self._store is None else dict(self._store.tags),
                "version": __version__,
                "processes": self._system.processes,
            },
            "history": self._history,
        }
        return to_json_text(parts)

    def _document(self, query: DashboardQuery, parts: str, cost_seconds: float) -> DashboardDocument:
        """Return a document. The lock is held."""
        others = sum(one.cost_seconds for each, one in self._latest.items() if each != query)
        period = max(MIN_PERIOD_SECONDS, (others + cost_seconds) / _HALF_SHARE)
        event = f'event: dashboard\ndata: {{"every_seconds": {period:.1f}, {parts[1:]}\n\n'
        return DashboardDocument(event.encode(), time.monotonic() + period, cost_seconds)

    def _failure(self, text: str) -> DashboardDocument:
        event = f"event: failed\ndata: {to_json_text({'text': text})}\n\n"
        return DashboardDocument(event.encode(), time.monotonic() + MIN_PERIOD_SECONDS, 0.0)


def create_dashboard_data(system: MetricsSystem, query: DashboardQuery) -> dict[str, Any]:
    """Return the document of a query."""
    window = timedelta(seconds=query.window_seconds)
    return system.create_dashboard_data(query.type, window=window, tags=dict(query.tags))


def _checked_window(text: str) -> float:
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not MIN_WINDOW_SECONDS <= seconds <= MAX_WINDOW_SECONDS:
        raise InvalidInputError(
            f"window={safe_repr(text)} is not a whole number of seconds from {MIN_WINDOW_SECONDS} to"
            f" {MAX_WINDOW_SECONDS}: pass 3600 for an hour"
        )
    return seconds
