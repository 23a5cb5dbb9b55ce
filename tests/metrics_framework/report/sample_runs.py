"""Snapshots of an invented service, with sidecars: a history of jobs with a shift in its middle."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
)

BEGIN = datetime(2026, 9, 1, 9, 30, tzinfo=UTC)
HOSTILE = "</code><script>alert(1)</script><img src=x onerror=alert(2)>\u202eevil\u0000\" '${title}"
"""A name that attacks a page: markup, a script, an order of letters, quotes and a template."""

MACHINE = "linux x86_64, 4 CPUs, AMD EPYC 7763 64-Core Processor"


def commit_of(number: int, branch: str = "main") -> str:
    """Return the commit of a job."""
    return hashlib.sha1(f"{branch} {number}".encode()).hexdigest()


def write_run(
    folder: Path,
    number: int,
    *,
    factor: float = 1.0,
    branch: str = "main",
    samples: int = 400,
    noise: float = 0.015,
    benchmark: str = "checkout",
    custom: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    hostile: bool = False,
) -> Path:
    """Write the snapshot of one job.

    Args:
        folder: The folder.
        number: The number of the job, which gives its commit, its date and its random numbers.
        factor: The speed: 1.1 is 10 % slower.
        branch: The branch.
        samples: The number of calls.
        noise: How much jobs differ.
        benchmark: The name of the timer.
        custom: Further custom values.
        tags: Further tags.
        hostile: Whether all texts are `HOSTILE`, and some of them a megabyte long.
    """
    chance = random.Random(f"{branch} {number}")
    speed = factor * math.exp(chance.gauss(0, noise))
    calls = [
        12.0 * speed * math.exp(abs(chance.gauss(0, 0.28)) + 0.02 * chance.random()) for _ in range(samples)
    ]
    calls = [call * (4 if chance.random() < 0.004 else 1) for call in calls]
    queries = [3.1 * chance.lognormvariate(0, 0.2) * math.exp(chance.gauss(0, noise)) for _ in range(samples)]
    latency, query = Distribution.of(calls), Distribution.of(queries)
    p50, p95, p99 = latency.quantiles(0.5, 0.95, 0.99)
    query_p95, query_p99 = query.quantiles(0.95, 0.99)
    date = BEGIN + timedelta(hours=31 * number)
    snapshot = PerformanceSnapshot(
        Metrics(
            LatencyMetrics(mean=latency.mean, p50=p50, p95=p95, p99=p99),
            throughput=1e3 / latency.mean,
            memory_mb=212 * math.exp(chance.gauss(0, 0.004)),
            cpu_percent=min(100, 61 * math.exp(chance.gauss(0, noise))),
            custom={
                "operation:db/query/count": float(samples),
                "operation:db/query/mean": query.mean,
                "operation:db/query/p95": query_p95,
                "operation:db/query/p99": query_p99,
                "queries/per_order": 7.0,
                "cache/hits": round(900 * math.exp(chance.gauss(0, noise))),
                **({f"{HOSTILE}/{name}": factor for name in ("a", "b" * 2**20)} if hostile else {}),
                **(custom or {}),
            },
        ),
        metadata=SnapshotMetadata(
            run_id=f"{branch}-{number}",
            commit=HOSTILE if hostile else commit_of(number, branch),
            branch=branch,
            timestamp=date + timedelta(minutes=20),
            environment=Environment.CI,
            tags={
                "latency_metric": benchmark,
                "job": f"{branch}-{number}",
                "machine": f"{HOSTILE} {branch}" + "m" * 2**20 if hostile else MACHINE,
                "commit_date": date.isoformat(),
                **(tags or {}),
            },
        ),
    )
    return SnapshotWriter(folder).write(snapshot, {"latency": latency, "custom.operation:db/query": query})


def write_history(
    folder: Path,
    *,
    jobs: int = 30,
    shift_at: int = 15,
    shift: float = 1.12,
    benchmark: str = "checkout",
    hostile: bool = False,
) -> list[Path]:
    """Write the snapshots of jobs on main, which become slower in the middle."""
    return [
        write_run(
            folder,
            number,
            factor=shift if number >= shift_at else 1.0,
            benchmark=benchmark,
            hostile=hostile,
        )
        for number in range(jobs)
    ]
