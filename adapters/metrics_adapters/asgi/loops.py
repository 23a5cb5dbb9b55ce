"""Which event loop runs: asyncio's, or trio's where trio is in use."""

from __future__ import annotations

import sys
from typing import Any


def trio() -> Any:
    """Return the module ``trio`` where it runs this task, ``None`` where it does not."""
    module = sys.modules.get("trio")
    try:
        if module is not None:
            module.lowlevel.current_task()
    except RuntimeError:
        return None
    return module
