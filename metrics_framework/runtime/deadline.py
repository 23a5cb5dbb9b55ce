"""Deadlines, the sockets that keep them, and worker threads that may miss them.

A deadline covers a whole exchange with a server: each step gets the time that the earlier ones have left
over. Name resolution and ``fsync`` cannot be interrupted. Work that may block in them therefore runs in a
`Worker`, whose thread can be abandoned; elsewhere, the name lookup alone does.
"""

from __future__ import annotations

import io
import math
import queue
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from metrics_framework.runtime.cooperative import cooperatively
from metrics_framework.runtime.event_loops import Notifier
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork, run_after_fork

_CHUNK_BYTES = 65_536


class Deadline:
    """The point in time at which a piece of work must have ended. Its text is the time limit, for messages.

    Inside `keeping`, a new deadline is never later than that of the surrounding work.

    Args:
        seconds: Seconds from now.
        is_final: Whether the process is about to end, so that nothing is retried.
    """

    def __init__(self, seconds: float, *, is_final: bool = False) -> None:
        outer = _thread.deadline
        self._seconds = seconds if outer is None else min(seconds, outer.seconds_left)
        self._end = time.monotonic() + self._seconds
        self._is_final = is_final
        self._cancelled = Notifier()

    def __str__(self) -> str:
        return f"{self._seconds:{'.0f' if self._seconds >= 10 else '.2g'}} seconds"

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; zero after it."""
        return max(0.0, self._end - time.monotonic())

    def cancel_retries(self) -> None:
        """End the pause of `pause_before_retry`, and refuse further ones."""
        self._is_final = True
        self._cancelled.notify()

    def _pause(self, seconds: float) -> bool:
        if self._is_final or seconds >= self.seconds_left:
            return False
        self._cancelled.wait(lambda: self._is_final, seconds)
        return not self._is_final


class _ThreadState(threading.local):
    deadline: Deadline | None = None
    worker: Worker | None = None


_thread = _ThreadState()


@contextmanager
def keeping(deadline: Deadline) -> Iterator[None]:
    """Limit all deadlines that this thread creates inside the block."""
    before, _thread.deadline = _thread.deadline, deadline
    try:
        yield
    finally:
        _thread.deadline = before


def seconds_left() -> float | None:
    """Return the seconds until the deadline of this thread's work, or ``None`` if it has none."""
    deadline = _thread.deadline
    return None if deadline is None else deadline.seconds_left


def pause_before_retry(seconds: float) -> bool:
    """Sleep before this thread retries, and return whether it may retry.

    The answer is ``False``, without a pause or before its end, if the deadline of the thread's work would
    pass or the process is about to end.
    """
    deadline = _thread.deadline
    if deadline is None:
        time.sleep(seconds)
        return True
    return deadline._pause(seconds)


# -- sockets ---------------------------------------------------------------------------------------------


AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""An address, as `socket.getaddrinfo` returns it."""


def look_up(host: str, port: int, kind: socket.SocketKind, deadline: Deadline) -> Sequence[AddressInfo]:
    """Return the addresses of a host.

    A lookup that hangs is left to a thread of its own. The thread of a `Worker` needs no other, because it
    can be abandoned itself.

    Raises:
        OSError: If the host is unknown, or the resolver does not answer in time.
    """
    if in_worker() or _is_numeric(host):
        return socket.getaddrinfo(host, port, type=kind)
    lookup = _lookups.get((host, port, kind))
    if lookup is None or lookup.call.is_finished():
        try:
            # A lookup that hangs is not repeated, so that repeated exports leave one thread behind.
            lookup = _lookups[host, port, kind] = _Lookup(host, port, kind, deadline)
        except RuntimeError:  # the system or an exiting interpreter allows no more threads
            return socket.getaddrinfo(host, port, type=kind)
    is_finished = lookup.call.wait(deadline.seconds_left)
    if not is_finished:
        raise TimeoutError
    _lookups.pop((host, port, kind), None)
    if lookup.call.error is not None:
        raise lookup.call.error
    return lookup.addresses


class _Lookup:
    def __init__(self, host: str, port: int, kind: socket.SocketKind, deadline: Deadline) -> None:
        self.addresses: list[AddressInfo] = []
        self._worker = Worker("metrics-lookup")
        self.call = self._worker.submit(
            lambda: self.addresses.extend(socket.getaddrinfo(host, port, type=kind)), deadline
        )
        self._worker.stop()  # after the call


_lookups: dict[tuple[str, int, socket.SocketKind], _Lookup] = {}
"""The lookups of threads that are not workers. A forked child has none of their threads."""

run_after_fork(_lookups.clear, ForkOrder.STATE)


def _is_numeric(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Return a TCP connection to the first address of a host that accepts one.

    The time that is left is divided by the addresses that are left, so that one that does not answer leaves
    time for the others.

    Raises:
        OSError: If the host is unknown, or no address accepts a connection in time.
    """
    last_error: OSError = OSError("the host has no address")
    addresses = look_up(host, port, socket.SOCK_STREAM, deadline)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connection: socket.socket | None = None
        try:
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(_positive(deadline.seconds_left / (len(addresses) - number)))
            connection.connect(address)
            return connection
        except OSError as error:
            last_error = error
            if connection is not None:
                connection.close()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
    raise last_error


def start_tls(
    connection: socket.socket, context: ssl.SSLContext, host: str, deadline: Deadline
) -> ssl.SSLSocket:
    """Return a connection after the TLS handshake. The old one must not be used any more.

    Raises:
        OSError: If the handshake fails or takes too long.
    """
    limit(connection, deadline)
    return context.wrap_socket(connection, server_hostname=host)


def send(connection: socket.socket, content: bytes, deadline: Deadline) -> None:
    """Send all bytes.

    Raises:
        OSError: If the connection fails, or the receiver does not read everything in time.
    """
    for chunk in chunks(connection, content, deadline):
        connection.sendall(chunk)


def chunks(connection: socket.socket, content: bytes, deadline: Deadline) -> Iterator[bytes]:
    """Yield the bytes in parts, and limit the socket before each: the caller must send it at once."""
    for start in range(0, len(content), _CHUNK_BYTES):
        limit(connection, deadline)
        yield content[start : start + _CHUNK_BYTES]


class DeadlineReader(io.RawIOBase):
    """The bytes that a connection receives. Reads fail after a deadline.

    `http.client.HTTPResponse` takes it as a socket, of which it calls `makefile` only.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        """Return a buffered reader."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Return ``True``."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least one byte, or none at the end."""
        limit(self._connection, self._deadline)
        return self._connection.recv_into(buffer)


def limit(connection: socket.socket, deadline: Deadline) -> None:
    """Limit the next operation of a socket.

    Raises:
        TimeoutError: If no time is left.
    """
    connection.settimeout(_positive(deadline.seconds_left))


def _positive(seconds: float) -> float:
    if seconds <= 0:  # which a socket would take as "do not block"
        raise TimeoutError
    return seconds


# -- threads ---------------------------------------------------------------------------------------------


class Call:
    """A call that a `Worker` makes.

    Attributes:
        deadline: When its callers give up. The work may run longer.
        has_begun: Whether the thread has taken it up.
        error: Its exception, if any.
    """

    def __init__(self, function: Callable[[], object], deadline: Deadline) -> None:
        self.function: Callable[[], object] | None = function
        self.deadline = deadline
        self.has_begun = False
        self.error: BaseException | None = None
        self._is_finished = False
        self._finished = Notifier()

    def is_finished(self) -> bool:
        """Return whether the call has returned, raised or been cancelled."""
        return self._is_finished

    def wait(self, seconds: float) -> bool:
        """Block this thread until the call is finished, and return whether it is."""
        self._finished.wait(self.is_finished, seconds)
        return self._is_finished

    async def wait_async(self, seconds: float) -> bool:
        """Wait in a task until the call is finished, and return whether it is."""
        await self._finished.wait_async(self.is_finished, seconds)
        return self._is_finished

    def run(self, on_end: Callable[[], object] = lambda: None) -> None:
        """Make the call. No exception leaves it, because that would end the thread.

        Args:
            on_end: Called before the waiters wake.
        """
        function, self.function = self.function, None
        try:
            with keeping(self.deadline), cooperatively():
                if function is not None:
                    function()
        except BaseException as error:  # noqa: BLE001 - SystemExit, too, would end the thread
            self.error = error.with_traceback(None)  # whose frames would keep all that the call has read
        finally:
            del function
            on_end()
            self.finish()

    @property
    def has_succeeded(self) -> bool:
        """Whether the call has returned."""
        return self._is_finished and self.error is None

    def cancel(self, error: Exception) -> None:
        """Finish a call that was not made."""
        self.function, self.error = None, error
        self.finish()

    def finish(self) -> None:
        """Wake the waiters."""
        self._is_finished = True
        self._finished.notify()


class Worker:
    """A daemon thread that makes one call after another.

    The thread starts with this object, because an exiting interpreter starts no threads, and ends with `stop`
    or with this object. If a call hangs, its callers go on at its deadline, and the thread is left to it. A
    forked child starts a thread of its own with its first call.

    Args:
        name: The name of the thread.
        at_end: Called in the thread when it ends with this object.
    """

    def __init__(self, name: str, at_end: Callable[[], object] = lambda: None) -> None:
        self._name = name
        self._at_end = at_end
        self._is_stopped = False
        self._running: Call | None = None
        self._waiting: Call | None = None
        self._has_thread = False
        self._reset()
        reset_after_fork(self, Worker._reset, ForkOrder.STATE)
        self.start()

    @property
    def is_here(self) -> bool:
        """Whether the thread of this worker is the current one."""
        return _thread.worker is self

    @property
    def running(self) -> Call | None:
        """The call in progress."""
        return self._running

    @property
    def is_busy(self) -> bool:
        """Whether a call is in progress or waits for one."""
        return self._running is not None or self._waiting is not None

    def start(self) -> None:
        """Start the thread, if this process does not have it, also after `stop`.

        Raises:
            RuntimeError: If the system or an exiting interpreter allows no more threads.
        """
        with self._lock:
            self._is_stopped = False
            if not self._has_thread:
                # The thread refers to this object weakly, so that it ends with it.
                wake = self._wake
                reference = weakref.ref(self, lambda _: wake.put(None))
                arguments = (reference, wake, self._at_end)
                threading.Thread(target=_work, args=arguments, name=self._name, daemon=True).start()
                self._has_thread = True

    def submit(self, function: Callable[[], object], deadline: Deadline) -> Call:
        """Make a call after the one in progress, or at once if the thread of this worker calls this.

        At most one call waits: it makes the newest function, within the newest deadline.

        Raises:
            RuntimeError: If the thread cannot be started.
        """
        if self.is_here:
            call = Call(function, deadline)
            call.run()
            return call
        self.start()
        with self._lock:  # reentrant: a signal handler may interrupt this
            waiting = self._waiting
            if waiting is None:
                waiting = self._waiting = Call(function, deadline)
            else:
                waiting.function, waiting.deadline = function, deadline
        self._wake.put(None)
        return waiting

    def cancel(self, call: Call, deadline: Deadline) -> None:
        """Forget a call that waits, unless another caller has set another deadline since."""
        with self._lock:
            if self._waiting is call and call.deadline is deadline:
                self._waiting = None
                call.cancel(TimeoutError())

    def stop(self) -> None:
        """End the thread after the call in progress, without waiting for it. A later call starts another."""
        self._is_stopped = True
        self._wake.put(None)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # looked up now: gevent patches it
        self._running = self._waiting = None
        self._has_thread = False

    def _forget(self) -> None:
        self._running = None

    def _take(self) -> Call | None:
        with self._lock:
            call, self._waiting, self._running = self._waiting, None, self._waiting
            if call is not None:
                call.has_begun = True
        return call

    def _run_next(self, wake: queue.SimpleQueue[None]) -> bool:
        """Make the call that waits, and return whether the thread goes on."""
        call = self._take()
        if call is not None:
            _thread.worker = self
            call.run(self._forget)
            _thread.worker = None  # otherwise this object would live until the next call
        with self._lock:
            # A child that the call forked has another queue, and its thread is not this one.
            is_mine = self._wake is wake
            if is_mine and self._is_stopped:
                self._has_thread = False
            return is_mine and self._has_thread


def run_within_deadline(function: Callable[[], object], name: str) -> None:
    """Call a function that may hang, in a thread of its own, until the deadline of this thread's work.

    An exiting interpreter starts no threads from Python 3.12 on. Then the function runs in this thread.

    Args:
        function: The function.
        name: The name of the thread.

    Raises:
        TimeoutError: If the function goes on after the deadline.
        BaseException: What the function raises.
    """
    deadline = Deadline(math.inf)
    try:
        worker = Worker(name)
    except RuntimeError:
        function()
        return
    call = worker.submit(function, deadline)
    worker.stop()  # after the call
    if not call.wait(deadline.seconds_left):
        raise TimeoutError(f"not finished within {deadline}")
    if call.error is not None:
        raise call.error


def in_worker() -> bool:
    """Return whether the current thread is that of a `Worker`."""
    return _thread.worker is not None


def _work(
    reference: weakref.ref[Worker], wake: queue.SimpleQueue[None], at_end: Callable[[], object]
) -> None:
    while True:
        wake.get()
        worker = reference()
        if worker is None:
            at_end()
            return
        if not worker._run_next(wake):
            return
        del worker  # otherwise it would live until the next call
