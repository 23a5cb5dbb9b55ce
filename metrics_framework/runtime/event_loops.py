"""Which event loop runs here, asked without importing one."""

from __future__ import annotations

import sys
from typing import Any


def running_trio() -> Any:
    """Return the module ``trio`` where it runs this task, ``None`` where it does not.

    To be asked before asyncio is: trio may be a guest of asyncio's loop, which runs then, too.
    """
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_task() else None
