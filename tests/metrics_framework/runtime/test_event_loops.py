"""Which event loop runs is known inside its tasks, and nowhere else."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import trio

from metrics_framework.runtime.event_loops import running_trio


def test_trio_runs_its_own_tasks_only():
    """It is trio within a task of trio, also in one that is a guest of asyncio, and nothing elsewhere."""
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


def test_asking_imports_nothing():
    """An application without trio pays for none."""
    code = (
        "import sys; from metrics_framework.runtime.event_loops import running_trio; "
        "assert running_trio() is None; sys.exit('trio' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
