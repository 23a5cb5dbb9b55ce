"""The current system: a default for a context, which nests, is restored, and stays in its context."""

from __future__ import annotations

import asyncio
import contextvars
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

import metrics_adapters
import metrics_framework
from metrics_framework import InvalidInputError, MetricsSystem, current, use


@pytest.fixture
def systems(clock):
    """Return three systems."""
    made = [MetricsSystem(clock=clock) for _ in range(3)]
    yield made
    for system in made:
        system.shutdown_metrics()


@pytest.fixture(autouse=True)
def nothing_left():
    """Check that a test leaves no system in use."""
    nothing = current()
    yield
    assert current() is nothing


# -- outside of any use ------------------------------------------------------------------------------------


def test_outside_of_any_use_all_records_are_discarded():
    """A library can always record; every call returns the same null system."""
    nothing = current()
    nothing.collector.record_counter("orders", 3)
    nothing.timer.time_operation("checkout", lambda: None)
    nothing.tracker.record_failure("checkout", "timeout")
    with nothing.measure("checkout") as measurement:
        measurement.tag("country", "NL")
    assert nothing.aggregator.get_metrics_by_tag({}) == []
    assert nothing.get_system_health()["healthy"] is True
    assert current() is nothing


@pytest.mark.slow
def test_the_null_system_is_created_once_even_by_many_threads():
    """All threads get the same system."""
    code = (
        "import sys, threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "from metrics_framework import current\n"
        "found, together = [], threading.Barrier(8)\n"
        "def ask(): together.wait(); found.append(current())\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(found) == 8 and len(set(map(id, found))) == 1\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_the_null_system_is_created_on_demand():
    """Importing the package, and using a system, do not create it."""
    code = (
        "import sys, metrics_framework\n"
        "assert 'metrics_adapters' not in sys.modules\n"
        "with metrics_framework.use(metrics_framework.MetricsSystem()): metrics_framework.current()\n"
        "assert 'metrics_adapters.null' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_library_does_not_use_the_current_system():
    """Only `context` and the FastAPI dependencies use `current()`; all other code gets a system passed."""
    packages = (metrics_framework, metrics_adapters)
    sources = [path for package in packages for path in Path(package.__file__).parent.rglob("*.py")]
    asks = re.compile(r"(?<![.\w])(?<!def )current\(|\bcontext import|framework\.current")
    asking = {path.name for path in sources if asks.search(path.read_text())}
    # The one that has it, the one that offers it, and one that falls back on it.
    assert asking == {"context.py", "__init__.py", "fastapi.py"}


# -- nesting -----------------------------------------------------------------------------------------------


def test_uses_nest_and_restore_the_previous_system(systems):
    """The current system is that of the innermost block, even if blocks use the same system."""
    a, b, _ = systems
    before = current()
    with use(a) as given:
        assert given is current() is a
        with use(b):
            assert current() is b
            with use(a), use(a):
                assert current() is a
            assert current() is b
        assert current() is a
    assert current() is before


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_exception_ends_the_use_and_propagates(systems, error):
    """After an exception the previous system is current again, and the exception is unchanged."""
    before = current()
    with pytest.raises(type(error)) as caught, use(systems[0]), use(systems[1]):
        raise error
    assert caught.value is error
    assert current() is before


def test_uses_may_end_in_any_order(systems):
    """Each block removes its own system; the last one that began of the rest is current."""
    a, b, c = systems
    one, two, three = use(a), use(b), use(c)
    for block in (one, two, three):
        block.__enter__()
    one.__exit__(None, None, None)
    assert current() is c
    three.__exit__(None, None, None)
    assert current() is b
    two.__exit__(None, None, None)


def test_the_use_of_a_system_does_not_shut_it_down(systems):
    """The creator of a system shuts it down."""
    with use(systems[0]):
        pass
    systems[0].initialize_metrics({"max_custom": 3})


@pytest.mark.parametrize("wrong", [None, MetricsSystem, "metrics", 3], ids=str)
def test_only_a_system_can_be_used(wrong):
    """Any other value raises an error and changes nothing."""
    before = current()
    with pytest.raises(InvalidInputError, match="takes a MetricsSystem"), use(wrong):
        pass
    assert current() is before


def test_a_use_that_ends_in_another_context_is_an_error(systems):
    """The error changes neither context."""
    errors = []
    stack = ExitStack()

    def leave() -> None:
        with pytest.raises(InvalidInputError, match="another context") as caught:
            stack.close()
        errors.append(caught.value)

    def enter() -> None:
        stack.enter_context(use(systems[0]))
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        assert current() is systems[0]

    contextvars.copy_context().run(enter)
    assert len(errors) == 1


# -- threads and tasks -------------------------------------------------------------------------------------


def test_a_plain_thread_starts_without_it_unless_it_gets_the_context(systems):
    """A new thread has an empty context; a copied context contains the system."""
    nothing, found = current(), []
    with use(systems[0]):
        own = contextvars.copy_context()
        for target in (lambda: found.append(current()), lambda: own.run(lambda: found.append(current()))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert found == [nothing, systems[0]]


def test_threads_do_not_see_each_others_systems(systems):
    """Each thread has its own system while all blocks are open."""
    together, found = threading.Barrier(3, timeout=20), {}

    def work(number: int) -> None:
        with use(systems[number]):
            together.wait()
            found[number] = current()
            together.wait()

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict(enumerate(systems))


def test_tasks_inherit_it_and_do_not_see_each_others(systems):
    """A task and `asyncio.to_thread` inherit the system; the use of a task stays in the task."""
    a, b, c = systems

    async def work(own: MetricsSystem) -> list[MetricsSystem]:
        found = [current()]
        with use(own):
            await asyncio.sleep(0.01)
            found += [current(), await asyncio.to_thread(current)]
        return [*found, current()]

    async def main() -> list[list[MetricsSystem]]:
        with use(a):
            tasks = [asyncio.create_task(work(own)) for own in (b, c)]
            await asyncio.sleep(0)
            assert current() is a
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [[a, b, b, a], [a, c, c, a]]


# -- decorated functions -----------------------------------------------------------------------------------


def test_a_decorated_function_looks_up_the_system_when_it_is_called(systems, clock):
    """It is decorated at import, before there is a system: each call is recorded by the system in use."""

    class NotFound(Exception):
        pass

    @current().measure("work", {"kind": "function"}, ignore=(NotFound,))
    def work(error=None):
        clock.advance(1)
        if error is not None:
            raise error

    @current().measure("work", {"kind": "coroutine"})
    async def coroutine():
        clock.advance(2)

    @current().measure("work", {"kind": "generator"})
    def generator():
        yield clock.advance(4)

    first, second, third = systems
    work()  # discarded
    for system, times in ((first, 1), (second, 2)):
        with use(system):
            for _ in range(times):
                work()
                asyncio.run(coroutine())
                list(generator())
            with pytest.raises(NotFound):
                work(NotFound())
    for system, times in ((first, 1), (second, 2)):
        for kind, seconds, more in (("function", 1, 1), ("coroutine", 2, 0), ("generator", 4, 0)):
            stats = system.timer.get_timing_stats("work", tags={"kind": kind})
            assert (stats["count"], stats["sum"]) == (times + more, seconds * 1000.0 * (times + more))
        assert system.tracker.get_success_rate("work") == 1.0
    assert third.aggregator.get_metrics_by_tag({}) == []


def test_a_block_outside_of_any_use_is_not_recorded_later(systems):
    """Only decorated functions look up a system at each call."""
    with current().measure("work"), use(systems[0]):
        pass
    assert systems[0].aggregator.get_metrics_by_tag({}) == []
