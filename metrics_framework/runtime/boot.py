"""The boot of this machine."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str | None:
    """Return what identifies this boot of the machine; the same text in all processes, also in containers."""
    if sys.platform == "linux":
        with suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None
    import psutil

    return str(round(psutil.boot_time()))
