"""The scrape endpoint responds whatever callbacks, registries and renderers do, also concurrently."""

from __future__ import annotations

import gzip
import os
import threading
import time
import warnings

import pytest
from prometheus_client import CollectorRegistry

from metrics_adapters.http.negotiation import choose_format
from metrics_adapters.http.scrape import (
    CHUNK_BYTES,
    Endpoint,
    EndpointResponse,
    ScrapeRequest,
    SharedCalls,
    in_thread,
)
from metrics_adapters.prometheus.targets import Exposition
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition.text import Format
from metrics_framework.recording import Store

TIMEOUT_SECONDS = 20.0
SCRAPE_THREAD = "metrics-scrape"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Scripted(Exposition):
    """An exposition whose text is scripted by a test, in chunks that may do anything."""

    def __init__(self, *chunks, foreign=lambda: b""):
        super().__init__(Store(), CollectorRegistry())
        self.script = chunks
        self.foreign_script = foreign
        self.rendered = 0

    def chunks(self, format=Format.TEXT, escaping=None, names=None, *, registry_text=None):
        """Yield each chunk, or the result of calling it."""
        self.rendered += 1
        for chunk in self.script:
            yield chunk() if callable(chunk) else chunk
        yield registry_text

    def registry_text(self, format=Format.TEXT, escaping=None, names=None):
        """Return the scripted text of the registry."""
        return self.foreign_script()


class Callbacks:
    """Callbacks that count their calls."""

    def __init__(self, work=lambda: None):
        self.work = work
        self.calls = 0

    def collect(self):
        """Count the call, and do the work."""
        self.calls += 1
        self.work()


@pytest.fixture
def gate():
    """Return an event that releases hanging calls. It is set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == SCRAPE_THREAD:
            thread.join(TIMEOUT_SECONDS)


def scrape(endpoint: Endpoint, **headers) -> EndpointResponse:
    """Return the response to a scrape."""
    admitted = endpoint.admit(ScrapeRequest("GET", **headers), "/metrics")
    if isinstance(admitted, EndpointResponse):
        return admitted
    with admitted:
        return admitted.run()


def body(response: EndpointResponse) -> bytes:
    """Return the whole body, after checking its length against the headers."""
    whole = b"".join(response.body)
    assert dict(response.headers)["Content-Length"] == str(len(whole))
    return whole


def messages(caplog):
    """Return the log messages."""
    return [record.getMessage() for record in caplog.records]


def hanging():
    """Return the threads of unfinished calls."""
    return [thread for thread in threading.enumerate() if thread.name == SCRAPE_THREAD]


def fail():
    """Raise an unexpected error."""
    raise ZeroDivisionError("the boiler is cold")


# -- responses --------------------------------------------------------------------------------------------


def test_the_response_has_the_requested_format():
    """Its content type states the format, and it must not be cached."""
    endpoint = Endpoint(Scripted(b"a 1\n", b"b 2\n"))
    for accept in (None, OPENMETRICS):
        response = scrape(endpoint, accept=accept)
        assert (response.status, body(response)) == (200, b"a 1\nb 2\n")
        assert dict(response.headers)["Content-Type"] == choose_format(accept).content_type
        assert dict(response.headers)["Cache-Control"] == "no-store"
        assert "Content-Encoding" not in dict(response.headers)


def test_gzip_decompresses_to_the_same_text():
    """The text is compressed chunk by chunk while it is rendered."""
    chunks = [b"", b"x", os.urandom(3 * CHUNK_BYTES + 1), b"y" * 10, b"z" * 1_000_000]
    endpoint = Endpoint(Scripted(*chunks))
    response = scrape(endpoint, accept_encoding="gzip")
    assert dict(response.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(body(response)) == body(scrape(endpoint)) == b"".join(chunks)


def test_chunks_are_neither_small_nor_large():
    """Small texts are joined and large ones are split, so that sending is even."""
    endpoint = Endpoint(Scripted(*[b"a line\n"] * 50_000, b"x" * CHUNK_BYTES * 5))
    chunks = [len(chunk) for chunk in scrape(endpoint).body]
    assert max(chunks) < 2 * CHUNK_BYTES
    assert min(chunks[:-1]) >= CHUNK_BYTES


def test_head_does_not_render():
    """The response has the headers of a scrape."""
    callbacks, exposition = Callbacks(), Scripted(b"a 1\n")
    endpoint = Endpoint(exposition, callbacks=callbacks)
    with endpoint.admit(ScrapeRequest("HEAD", accept=OPENMETRICS), "/metrics") as admitted:
        response = admitted.run()
    assert (response.status, response.body) == (200, [])
    assert dict(response.headers)["Content-Type"] == choose_format(OPENMETRICS).content_type
    assert (callbacks.calls, exposition.rendered) == (0, 0)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", ""])
def test_other_methods_are_not_allowed(method):
    """The response states the allowed methods."""
    response = Endpoint(Scripted()).admit(ScrapeRequest(method), "/metrics")
    assert response.status == 405
    assert dict(response.headers)["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("path", "status"), [("/metrics", 200), ("/metrics/", 200), ("/metric", 404), ("", 404)]
)
def test_other_paths_are_not_found(path, status):
    """The response states the path of the metrics."""
    admitted = Endpoint(Scripted()).admit(ScrapeRequest("GET"), path)
    assert (admitted.status if isinstance(admitted, EndpointResponse) else 200) == status


def test_credentials_are_checked_first():
    """Without credentials, the response does not depend on the path or the method."""
    endpoint = Endpoint(Scripted(b"a 1\n"), bearer_token="s3cret")
    for method, path in (("GET", "/metrics"), ("GET", "/other"), ("POST", "/metrics")):
        response = endpoint.admit(ScrapeRequest(method, "Bearer wrong"), path)
        assert response.status == 401
        assert dict(response.headers)["WWW-Authenticate"] == 'Bearer realm="metrics"'
    assert body(scrape(endpoint, authorization="Bearer s3cret")) == b"a 1\n"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("path", "metrics"),
        ("path", ""),
        ("path", None),
        ("max_scrapes", 0),
        ("max_scrapes", 1.5),
        ("max_scrapes", True),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", "10"),
        ("timeout", True),
        ("callbacks", 3),
        ("registry", 3),
    ],
)
def test_an_invalid_argument_is_an_error(argument, value):
    """The message names the argument and quotes the value."""
    with pytest.raises(InvalidInputError, match=f"{argument}={value!r} "):
        Endpoint(Store(), **{argument: value})


# -- failures ----------------------------------------------------------------------------------------------


def test_a_failing_renderer_is_an_error_and_never_a_partial_response(caplog):
    """The error is logged once. The next scrape succeeds if rendering works again."""
    exposition = Scripted(b"a 1\n", fail)
    endpoint = Endpoint(exposition)
    for _ in range(3):
        response = scrape(endpoint)
        assert response.status == 500
        assert b"a 1" not in body(response)
        assert b"boiler" not in body(response)
    assert len(messages(caplog)) == 1
    assert "scrape failed" in messages(caplog)[0]
    assert "the boiler is cold" in messages(caplog)[0]
    exposition.script = (b"a 2\n",)
    assert body(scrape(endpoint)) == b"a 2\n"


def test_callbacks_are_called_before_rendering():
    """Every scrape calls them, and its response contains the values that they set."""
    seen = []
    exposition = Scripted(lambda: f"called {callbacks.calls}\n".encode())
    callbacks = Callbacks(lambda: seen.append(exposition.rendered))
    endpoint = Endpoint(exposition, callbacks=callbacks)
    assert [body(scrape(endpoint)) for _ in range(3)] == [b"called 1\n", b"called 2\n", b"called 3\n"]
    assert seen == [0, 1, 2]


def test_failing_callbacks_do_not_fail_the_scrape(caplog):
    """The other metrics are in the response, and the error is logged once."""
    endpoint = Endpoint(Scripted(b"a 1\n"), callbacks=Callbacks(fail))
    assert [body(scrape(endpoint)) for _ in range(3)] == [b"a 1\n"] * 3
    assert len(messages(caplog)) == 1
    assert "callbacks failed" in messages(caplog)[0]


@pytest.mark.slow
def test_hanging_callbacks_are_waited_for_once(caplog, gate):
    """The first scrape waits for half of its time-out, later ones do not wait, and all share one thread."""
    callbacks = Callbacks(lambda: gate.wait(TIMEOUT_SECONDS))
    endpoint = Endpoint(Scripted(b"a 1\n"), callbacks=callbacks, timeout=1.0)
    assert [body(scrape(endpoint)) for _ in range(5)] == [b"a 1\n"] * 5
    (thread,) = hanging()
    assert callbacks.calls == 1
    assert len(messages(caplog)) == 1
    gate.set()
    thread.join(TIMEOUT_SECONDS)
    scrape(endpoint)
    assert callbacks.calls == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_failing_registry_does_not_fail_the_scrape(caplog, gate, how):
    """Our metrics are in the response, and the error is logged once."""
    foreign = fail if how == "fails" else (lambda: b"b 2\n" if gate.wait(TIMEOUT_SECONDS) else b"")
    exposition = Scripted(b"a 1\n", foreign=foreign)
    endpoint = Endpoint(exposition, timeout=1.0)
    assert [body(scrape(endpoint)) for _ in range(3)] == [b"a 1\n"] * 3
    assert len(messages(caplog)) == 1
    assert "registry failed" in messages(caplog)[0]
    exposition.foreign_script = lambda: b"b 2\n"
    gate.set()
    for thread in hanging():
        thread.join(TIMEOUT_SECONDS)
    assert body(scrape(endpoint)) == b"a 1\nb 2\n"


def test_a_slow_scrape_times_out(caplog):
    """The time limit is checked between two chunks."""
    rendered = []

    def chunk():
        rendered.append(time.sleep(0.05))
        return b"a 1\n"

    response = scrape(Endpoint(Scripted(*[chunk] * 1_000), timeout=0.2))
    assert response.status == 500
    assert len(rendered) < 1_000
    assert "the scrape took more than 0.2 seconds" in messages(caplog)[0]


@pytest.mark.heavy
def test_busy_threads_do_not_time_a_scrape_out():
    """A scrape yields the GIL between chunks, but not for most of its time limit."""

    def chunk():
        end = time.perf_counter() + 0.0003
        while time.perf_counter() < end:
            pass
        return b"a 1\n"

    def work():
        while not stop.is_set():
            sum(range(1_000))

    stop = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        response = scrape(Endpoint(Scripted(*[chunk] * 1_000), timeout=5))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert body(response) == b"a 1\n" * 1_000


@pytest.mark.parametrize(
    ("scrape_timeout", "seconds"),
    [
        ("0.25", 0.25),
        ("30", 10),
        (None, 10),
        ("", 10),
        ("soon", 10),
        ("0", 10),
        ("-1", 10),
        ("nan", 10),
        ("inf", 10),
    ],
)
def test_the_scrape_timeout_header_shortens_the_time_limit(scrape_timeout, seconds):
    """Invalid values are ignored."""
    with Endpoint(Scripted()).admit(
        ScrapeRequest("GET", scrape_timeout=scrape_timeout), "/metrics"
    ) as admitted:
        assert admitted.seconds == seconds


# -- concurrency --------------------------------------------------------------------------------------------


def test_too_many_concurrent_scrapes_are_unavailable():
    """A slot is free again after its scrape has ended or failed."""
    endpoint = Endpoint(Scripted(b"a 1\n"), max_scrapes=2)
    with endpoint.admit(ScrapeRequest("GET"), "/metrics"), endpoint.admit(ScrapeRequest("GET"), "/metrics"):
        response = scrape(endpoint)
        assert response.status == 503
        assert dict(response.headers)["Retry-After"] == "1"
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), endpoint.admit(ScrapeRequest("GET"), "/metrics"):
            fail()
    assert scrape(endpoint).status == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_slot_is_free_when_the_response_is_complete(method):
    """It is freed before the last chunk of the response is sent, and not earlier."""
    endpoint = Endpoint(Scripted(b"a" * CHUNK_BYTES + b"b 1\n"), max_scrapes=1)
    for _ in range(3):
        admitted = endpoint.admit(ScrapeRequest(method), "/metrics")
        with admitted:
            chunks = iter(admitted.run().body)
            if method == "GET":
                assert next(chunks) == b"a" * CHUNK_BYTES
                assert scrape(endpoint).status == 503
                assert next(chunks) == b"b 1\n"
            assert scrape(endpoint).status == 200


@pytest.mark.slow
def test_a_forked_child_has_free_slots_and_new_calls(gate):
    """Scrapes and calls of the parent do not block the child."""
    callbacks = Callbacks(lambda: gate.wait(TIMEOUT_SECONDS))
    exposition = Scripted(b"a 1\n", foreign=lambda: callbacks.work() or b"")
    endpoint = Endpoint(exposition, callbacks=callbacks, max_scrapes=1, timeout=1.0)
    with endpoint.admit(ScrapeRequest("GET"), "/metrics") as admitted:
        admitted.run()  # its calls still hang
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the test forks with threads on purpose
            child = os.fork()
        if child == 0:
            callbacks.work, status = lambda: None, 1
            try:
                status = 0 if scrape(endpoint).status == 200 and callbacks.calls == 2 else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- shared calls --


def test_callers_share_the_call_in_progress():
    """After the call has ended, the next caller starts another."""
    shared, started = SharedCalls(TIMEOUT_SECONDS), []
    first, second = shared.call(started.append), shared.call(started.append)
    assert first is second
    assert first.future is started[0]
    started[0].set_result("done")
    assert [first.outcome(), second.outcome()] == ["done", "done"]
    assert shared.call(started.append) is not first
    assert len(started) == 2


def test_calls_with_different_keys_are_limited():
    """Each key has a call of its own; beyond the limit a call fails at once, until another one ends."""
    shared, started = SharedCalls(TIMEOUT_SECONDS, max_calls=2), []
    first, second = (shared.call(started.append, key) for key in ("a", "b"))
    assert first is not second
    assert shared.call(started.append, "a") is first
    with pytest.raises(RuntimeError, match="2 calls are in progress already"):
        shared.call(started.append, "c").outcome()
    started[0].set_result("done")
    shared.call(started.append, "c")
    assert len(started) == 3


def test_the_time_out_of_a_call_counts_from_its_start():
    """After the time-out the call still has no outcome."""
    call = SharedCalls(TIMEOUT_SECONDS).call(lambda future: None)
    assert TIMEOUT_SECONDS - 5 < call.seconds_left() <= TIMEOUT_SECONDS
    late = SharedCalls(0).call(lambda future: None)
    assert late.seconds_left() == 0
    with pytest.raises(TimeoutError, match="timed out"):
        late.outcome()


def test_a_waiter_that_times_out_leaves_nothing_behind(run):
    """Otherwise a hanging call would keep something of each scrape that waited for it."""
    call = SharedCalls(TIMEOUT_SECONDS).call(lambda future: None)
    callbacks = list(call.future._done_callbacks)
    run(call.wait_async(0.001))
    call.wait(0.001)
    assert call.future._done_callbacks == callbacks
    assert call._finished._wakes == []


@pytest.mark.parametrize("error", [ZeroDivisionError("by nought"), SystemExit(3)])
def test_an_exception_in_a_thread_is_the_outcome(error):
    """Waiters get any exception. SystemExit would end them, so it becomes a RuntimeError."""

    def work():
        raise error

    call = SharedCalls(TIMEOUT_SECONDS).call(in_thread(work))
    outcome = call.future.exception(TIMEOUT_SECONDS)
    assert outcome is error or repr(outcome) == "RuntimeError('SystemExit(3)')"
    with pytest.raises(type(outcome)):
        call.outcome()


def test_a_call_that_cannot_start_has_failed():
    """If no thread can be started, callers do not wait, and the next caller tries again."""
    shared = SharedCalls(TIMEOUT_SECONDS)

    def refuse(future):
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="new thread"):
        shared.call(refuse).outcome()
    assert shared.call(in_thread(lambda: "done")).future.result(TIMEOUT_SECONDS) == "done"


def test_a_reset_forgets_the_call_in_progress():
    """In a forked child, its thread does not exist."""
    shared, started = SharedCalls(TIMEOUT_SECONDS), []
    first = shared.call(started.append)
    shared.reset()
    assert shared.call(started.append) is not first
