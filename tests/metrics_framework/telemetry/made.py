"""Sample events for the tests."""

from __future__ import annotations

import json
from typing import Any


def event(**changes: Any) -> dict[str, Any]:
    """Return a small event of schema 3."""
    return {
        "schema_version": 3,
        "session_id": "session-1",
        "timestamp_ns": 1_700_000_000_000_000_000,
        "event_type": "sample",
        "collector": "stormlog.cuda_tracker",
        "sampling_interval_ms": 100,
        "pid": 42,
        "host": "node-1",
        "device_id": 0,
        "allocator_allocated_bytes": 1024,
        "allocator_reserved_bytes": 2048,
        "allocator_active_bytes": None,
        "allocator_inactive_bytes": None,
        "allocator_change_bytes": -5,
        "device_used_bytes": 4096,
        "device_free_bytes": 4096,
        "device_total_bytes": 8192,
        "context": "forward pass",
        "job_id": "job",
        "rank": 1,
        "local_rank": 0,
        "world_size": 2,
        "metadata": {},
        **changes,
    }


def line(number: int, *, padding: int = 0) -> bytes:
    """Return the line of an event with a unique time."""
    event = {
        "session_id": "s",
        "timestamp_ns": number,
        "event_type": "sample",
        "context": "x" * padding,
    }
    return json.dumps(event).encode() + b"\n"
