"""A minimal adapter: it keeps a list of all records, and fulfils only the contract.

An append is atomic, so threads and signal handlers need no lock. A read goes over the whole list.
"""

# ruff: noqa: D102, D103 - the Protocols document the methods

import json
import math
import os
import resource
import shutil
import threading
from collections import defaultdict
from pathlib import Path

from metrics_framework.clock import SYSTEM_CLOCK, utc
from metrics_framework.errors import InvalidInputError, UnknownMetricError, nearest
from metrics_framework.values import MetricType, MetricUnit, MetricValue, to_milliseconds

COUNTER, GAUGE, HISTOGRAM, TIMER = (
    MetricType.COUNTER,
    MetricType.GAUGE,
    MetricType.HISTOGRAM,
    MetricType.TIMER,
)


class MinimalCollector:
    """A `MetricCollector` over a dict: name to type and records."""

    def __init__(self, clock=SYSTEM_CLOCK):
        self.clock = clock
        self.start_ns = clock.monotonic_ns()
        self.metrics = {}

    def record_counter(self, name, value=1, tags=None):
        self._record(COUNTER, name, not_negative(value), tags)

    def record_gauge(self, name, value, tags=None):
        self._record(GAUGE, name, int(value) if isinstance(value, bool) else number(value), tags)

    def record_histogram(self, name, value, tags=None):
        self._record(HISTOGRAM, name, number(value), tags)

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        self._record(TIMER, name, to_milliseconds(not_negative(duration), unit), tags)

    def increment(self, name, tags=None):
        if isinstance(name, str) and self.metrics.get(name, (COUNTER,))[0] is GAUGE:
            self._record(GAUGE, name, 1, tags, step=True)
        else:
            self._record(COUNTER, name, 1, tags)

    def decrement(self, name, tags=None):
        self._record(GAUGE, name, -1, tags, step=True)

    def _record(self, kind, name, value, tags, step=False):
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"name={name!r} is not a non-empty string")
        series = tag_items(tags)
        known, records = self.metrics.setdefault(name, (kind, []))
        if known is not kind:
            raise InvalidInputError(f"{name!r} is a {known.value}, not a {kind.value}")
        records.append((self.clock.monotonic_ns(), series, value, step))


class MinimalAggregator:
    """A `MetricsAggregator` over a `MinimalCollector`."""

    def __init__(self, collector):
        self.collector = collector

    def get_metric_summary(self, metric_name, time_window=None):
        if metric_name not in self.collector.metrics:
            hint = nearest(str(metric_name), self.collector.metrics)
            raise UnknownMetricError(f"no metric was recorded as {metric_name!r}.{hint}")
        kind, records = self.collector.metrics[metric_name]
        return self._summary(kind, list(records), time_window)

    def get_metrics_by_tag(self, tag_filter):
        now = utc(self.collector.clock)
        found = []
        for name, (kind, records) in list(self.collector.metrics.items()):
            by_series = defaultdict(list)
            for record in list(records):
                by_series[record[1]].append(record)
            for series, chosen in by_series.items():
                if tag_filter.items() <= dict(series).items():
                    summary = self._summary(kind, chosen)
                    value = summary[{COUNTER: "total", GAUGE: "last"}.get(kind, "p95")]
                    unit = MetricUnit.MILLISECONDS if kind is TIMER else MetricUnit.COUNT
                    found.append(MetricValue(name, value, kind, unit, now, dict(series), summary))
        return found

    def export_metrics(self, format="json"):
        if format != "json":
            raise InvalidInputError(f"format {format!r} is unknown; use json")
        values = self.get_metrics_by_tag({})
        return json.dumps([[value.name, value.tags, value.value, value.metadata] for value in values])

    def get_top_metrics(self, metric_type, limit=10):
        values = self.get_metrics_by_tag({})
        if metric_type is MetricType.RATE:
            values = [as_rate(value) for value in values if value.metric_type is COUNTER]
        chosen = [value for value in values if value.metric_type is metric_type]
        return sorted(chosen, key=lambda value: -value.value)[: max(limit, 0)]

    def _summary(self, kind, records, window=None):
        now, since = self.collector.clock.monotonic_ns(), self.collector.start_ns
        if window is not None:
            since = now - window_ns(window)
        seconds = (now - since) / 1e9
        levels, last = defaultdict(float), None
        values = []
        for when, series, value, step in records:
            last = value = value + levels[series] if step else value
            levels[series] = value
            if when >= since:
                values.append(value)
        count, total = len(values), math.fsum(values)
        summary = {"count": count, "seconds": seconds}
        if kind is GAUGE:
            summary["last"] = last
        else:
            summary["sum"] = total
            events = total if kind is COUNTER else count
            summary["rate"] = events / seconds if seconds else 0.0
        if kind is COUNTER:
            summary["total"] = math.fsum(record[2] for record in records)
        elif values:
            summary |= {"avg": total / count, "min": min(values), "max": max(values)}
        if kind in (HISTOGRAM, TIMER) and values:
            values.sort()
            mean = total / count
            summary["stddev"] = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / count)
            for percent in (50, 90, 95, 99):
                summary[f"p{percent}"] = values[math.ceil(percent * count / 100) - 1]
        return summary


def number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInputError(f"{value!r} is not a finite number")
    return value


def not_negative(value):
    if number(value) < 0:
        raise InvalidInputError(f"{value!r} is negative; a gauge goes down")
    return value


def tag_items(tags):
    if not isinstance(tags, (dict, type(None))):
        raise InvalidInputError(f"tags={tags!r} is not a dict")
    for key in tags or ():
        if not isinstance(key, str) or not key:
            raise InvalidInputError(f"tag {key!r} is not a non-empty string")
    return tuple(sorted((key, str(value)) for key, value in (tags or {}).items()))


def window_ns(window):
    try:
        nanoseconds = window.total_seconds() * 1e9
    except AttributeError:
        nanoseconds = 0
    if nanoseconds <= 0:
        raise InvalidInputError(f"time_window={window!r} is not a positive timedelta")
    return nanoseconds


def as_rate(counter):
    unit, rate = MetricUnit.OPERATIONS_PER_SECOND, counter.metadata["rate"]
    return MetricValue(
        counter.name, rate, MetricType.RATE, unit, counter.timestamp, counter.tags, counter.metadata
    )


class MinimalMonitor:
    """A `ResourceMonitor` of the standard library and Linux' /proc."""

    def __init__(self, collector):
        self.collector = collector
        self._stop = None

    def get_memory_usage(self):
        lines = Path("/proc/meminfo").read_text().splitlines()
        meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, available = meminfo["MemTotal"], meminfo["MemAvailable"]
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return {
            "total": total,
            "available": available,
            "used": total - available,
            "percent": 100 * (1 - available / total),
            "process_rss": rss,
            "process_peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def get_cpu_usage(self):
        load = os.getloadavg()
        return {"load_1m": load[0], "load_5m": load[1], "load_15m": load[2], "count": os.cpu_count() or 1}

    def get_disk_usage(self, path="/"):
        total, used, free = shutil.disk_usage(path)
        return {"total": total, "used": used, "free": free, "percent": 100 * used / total}

    def get_network_stats(self):
        keys = ("bytes", "packets", "errors", "drops")
        stats = {}
        for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
            numbers = [int(number) for number in line.partition(":")[2].split()]
            for key, received, sent in zip(keys, numbers[:4], numbers[8:12], strict=True):
                wide = key in ("bytes", "packets")
                for name, number in (
                    ("received" if wide else "in", received),
                    ("sent" if wide else "out", sent),
                ):
                    stats[f"{key}_{name}"] = stats.get(f"{key}_{name}", 0) + number
        return stats

    def start_resource_monitoring(self, interval=60.0):
        if self._stop is None:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._stop, interval), daemon=True)
            self._thread.start()

    def stop_resource_monitoring(self):
        if self._stop is not None:
            self._stop.set()
            self._thread.join()
            self._stop = None

    def _run(self, stop, interval):
        while not stop.wait(interval):
            self.collector.record_gauge("memory.rss", self.get_memory_usage()["process_rss"])
