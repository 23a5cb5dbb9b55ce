"""The running event loop is detected inside its tasks only."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import trio

from metrics_framework.runtime.event_loops import create_event, run_until_first, run_within, running_trio

RUNNERS = {"asyncio": asyncio.run, "trio": lambda main: trio.run(lambda: main)}


@pytest.fixture(params=RUNNERS)
def run(request):
    """Return a function that runs a coroutine, on each event loop."""
    return RUNNERS[request.param]


def test_trio_runs_its_own_tasks_only():
    """`running_trio` returns trio inside its tasks, also as a guest of asyncio, and otherwise `None`."""
    found = {}

    async def look(where):
        found[where] = running_trio()

    async def host():
        await look("asyncio")
        done = asyncio.Event()
        trio.lowlevel.start_guest_run(
            look,
            "guest",
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=lambda _: done.set(),
        )
        await done.wait()

    assert running_trio() is None
    trio.run(look, "trio")
    asyncio.run(host())
    assert found == {"trio": trio, "asyncio": None, "guest": trio}


@pytest.mark.slow
def test_detection_imports_nothing():
    """An application without trio does not import it."""
    code = (
        "import sys; from metrics_framework.runtime.event_loops import running_trio; "
        "assert running_trio() is None; sys.exit('trio' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_run_within_cancels_a_slow_function(run):
    """It returns whether the function finished in time."""

    async def finish():
        pass

    async def main():
        event = create_event()
        assert await run_within(20, finish)
        assert not await run_within(0.001, event.wait)
        event.set()
        assert await run_within(20, event.wait)

    run(main())


def test_run_until_first_cancels_the_others(run):
    """It returns when the first function finishes, and the others are cancelled by then."""
    ended = []

    async def wait():
        try:
            await create_event().wait()
        finally:
            ended.append("cancelled")

    async def finish():
        ended.append("finished")

    run(run_until_first(wait, finish, wait))
    assert sorted(ended) in (["cancelled", "cancelled", "finished"], ["cancelled", "finished"])


def test_run_until_first_raises_the_error_of_a_function(run):
    """Alone on asyncio, in a group on trio."""

    async def fail():
        raise ZeroDivisionError

    async def wait():
        await create_event().wait()

    with pytest.raises((ZeroDivisionError, ExceptionGroup)) as caught:
        run(run_until_first(wait, fail))
    error = caught.value
    assert isinstance(error, ZeroDivisionError) or error.subgroup(ZeroDivisionError)
