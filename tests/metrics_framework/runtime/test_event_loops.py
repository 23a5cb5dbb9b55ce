"""The running event loop is detected inside its tasks only."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import trio

from metrics_framework.runtime.event_loops import running_trio


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


def test_detection_imports_nothing():
    """An application without trio does not import it."""
    code = (
        "import sys; from metrics_framework.runtime.event_loops import running_trio; "
        "assert running_trio() is None; sys.exit('trio' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
