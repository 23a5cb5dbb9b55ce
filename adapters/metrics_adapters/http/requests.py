"""Questions to a system, asked in threads: a part that is slow, or hangs, holds no event loop up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from metrics_adapters.http.event_loop import wait
from metrics_adapters.http.scrape import Answer, short_answer
from metrics_adapters.http.shared_call import Call, in_thread
from metrics_framework.errors import SnapshotError
from metrics_framework.log import Isolation
from metrics_framework.system import MetricsSystem

MAX_QUESTIONS = 10
"""How many questions of one kind are asked at a time."""


class Questions:
    """Questions of one kind.

    Args:
        what: What is asked for, for the log.
        timeout: How many seconds an answer is waited for.
    """

    def __init__(self, what: str, timeout: float) -> None:
        self._what = what
        self._timeout = timeout
        self._isolation = Isolation()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the questions that are being asked: in a forked child nobody is at it."""
        self._places = threading.BoundedSemaphore(MAX_QUESTIONS)

    async def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return the answer to a question, or the one that says why there is none."""
        places = self._places
        if not places.acquire(blocking=False):
            return _later(f"{self._what}: as many questions as may be are being asked")
        call = Call[Answer](self._timeout)
        # Not before the thread is at its end: so many hang at most.
        call.future.add_done_callback(lambda _: places.release())
        try:
            in_thread(question)(call.future)
        except RuntimeError as error:  # no more threads to be had
            call.future.set_exception(error)
        await wait(call.future, call.seconds_left())
        if not call.future.done():
            self._isolation.call(f"{self._what} not answered", call.outcome)
            return _later(f"{self._what}: no answer within {self._timeout:g} seconds")
        failed = short_answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{self._what} failed; see the log")
        return self._isolation.call(f"{self._what} not answered", call.outcome) or failed


def health(system: MetricsSystem) -> Answer:
    """Return the readings of a system's health: 200 where it is healthy, else 503."""
    readings = system.get_system_health()
    return json_answer(HTTPStatus.OK if readings["healthy"] else HTTPStatus.SERVICE_UNAVAILABLE, readings)


def snapshot(system: MetricsSystem, tags: Mapping[str, str]) -> Answer:
    """Return the snapshot of a system: 200, 400 where the tags break a rule, 503 where nothing was measured.

    Args:
        system: What was measured.
        tags: Those of the snapshot's metadata.
    """
    try:
        made, _ = system.build_snapshot(tags=tags)
    except SnapshotError as error:
        if any(violation.startswith("metadata.tags") for violation in error.violations):
            return short_answer(HTTPStatus.BAD_REQUEST, str(error))
        return _later(f"there is no snapshot yet: {error}")
    return json_answer(HTTPStatus.OK, made.to_dict())


def json_answer(status: HTTPStatus, data: Any) -> Answer:
    """Return an answer in JSON that nobody keeps."""
    body = json.dumps(data).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return Answer(status, headers, [body])


def _later(text: str) -> Answer:
    return short_answer(HTTPStatus.SERVICE_UNAVAILABLE, text, ("Retry-After", "1"))
