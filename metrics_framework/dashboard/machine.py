"""Panels of the machine, the process and the recording itself.

They show utilization, saturation and errors (Brendan Gregg's USE method).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metrics_framework.dashboard.metric_views import Measure, level, percent_level, to_number
from metrics_framework.dashboard.panels import (
    MAX_ROWS,
    Panel,
    PanelKind,
    PanelSeries,
    above,
    one_series,
    panel,
)
from metrics_framework.dashboard.time_series import TimeSeriesReader
from metrics_framework.health import CPU_GAUGES, DISK_GAUGES, MEMORY_GAUGES, MOUNTPOINT, NETWORK_GAUGES
from metrics_framework.values import MetricUnit

DISK_WARNING_PERCENT = 90.0

_MEMORY, _CPU, _DISK, _NETWORK = (
    {gauge.key: gauge.name for gauge in gauges}
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES)
)


def cpu(reader: TimeSeriesReader, threshold: float | None, kind: PanelKind = "line") -> Panel:
    """Return the CPU use of the machine, and in a chart also that of the process."""
    is_stat = kind == "stat"
    keys = ["percent"] if is_stat else ["percent", "process_percent_of_all"]
    return panel(
        "CPU",
        "Use of all CPUs together."
        if is_stat
        else "Use of all CPUs together, by the machine and the process.",
        kind,
        MetricUnit.PERCENT,
        _gauges(reader, [_CPU[key] for key in keys], percent_level),
        maximum=100,
        thresholds=[] if threshold is None else [above(threshold)],
    )


def memory(reader: TimeSeriesReader, threshold: float, kind: PanelKind = "line") -> Panel:
    """Return the memory use of the machine."""
    return panel(
        "Memory",
        "Use of the machine's memory.",
        kind,
        MetricUnit.PERCENT,
        _gauges(reader, [_MEMORY["percent"]], percent_level),
        maximum=100,
        thresholds=[above(threshold)],
    )


def memory_in_bytes(reader: TimeSeriesReader) -> Panel:
    """Return the memory use of the process."""
    return panel(
        "Process memory",
        "Resident memory of the process, and its peak.",
        "line",
        MetricUnit.BYTES,
        _gauges(reader, [_MEMORY[key] for key in ("process_rss", "process_peak_rss")]),
    )


def load(reader: TimeSeriesReader) -> Panel:
    """Return the load averages, with the number of CPUs as threshold."""
    cpus = _gauges(reader, [_CPU["count"]])
    return panel(
        "Load",
        "Tasks that run or wait for a CPU. Above the number of CPUs, they queue.",
        "line",
        MetricUnit.COUNT,
        _gauges(reader, [_CPU[key] for key in ("load_1m", "load_5m", "load_15m")]),
        thresholds=[above(one["value"], "warning") for one in cpus if one["value"]],
    )


def disk(reader: TimeSeriesReader) -> Panel:
    """Return the use of the fullest recorded disk, or of each disk if none was recorded."""
    return panel(
        "Disk",
        "Use of the fullest recorded disk.",
        "line",
        MetricUnit.PERCENT,
        _gauges(reader, [_DISK["percent"]], percent_level, by=MOUNTPOINT),
        maximum=100,
        thresholds=[above(DISK_WARNING_PERCENT, "warning")],
    )


def network(reader: TimeSeriesReader) -> Panel:
    """Return the network traffic per second."""
    recorded = reader.read_gauge(_NETWORK["bytes_sent"])
    increases = recorded.increases() if recorded is not None else []
    average = sum(value for _, value in increases) / len(increases) if increases else None
    return panel(
        "Network",
        "Bytes per second that all interfaces together sent and received.",
        "line",
        MetricUnit.BYTES,
        [one_series(_NETWORK["bytes_sent"], {}, increases, to_number(average))] if increases else [],
    )


def network_totals(reader: TimeSeriesReader) -> Panel:
    """Return the total network traffic."""
    return panel(
        "Network totals",
        "Bytes that all interfaces sent and received since they came up.",
        "table",
        MetricUnit.BYTES,
        _current(reader, [_NETWORK["bytes_sent"]]),
    )


def network_errors(reader: TimeSeriesReader) -> Panel:
    """Return the errors and drops of the network interfaces."""
    return panel(
        "Network errors",
        "Packets with errors and dropped packets since the interfaces came up.",
        "table",
        MetricUnit.COUNT,
        _current(reader, [_NETWORK["errors_in"], _NETWORK["drops_in"]]),
    )


def memory_limit(reader: TimeSeriesReader) -> Panel:
    """Return the memory limit of the container or the machine."""
    return panel(
        "Memory limit",
        "Memory of the container, or of the machine if the container has no limit.",
        "stat",
        MetricUnit.BYTES,
        _gauges(reader, [_MEMORY["total"]]),
    )


def cpu_limit(reader: TimeSeriesReader) -> Panel:
    """Return the CPU limit of the container or the machine."""
    return panel(
        "CPU limit",
        "CPUs of the container, or of the machine if the container has no limit.",
        "stat",
        MetricUnit.COUNT,
        _gauges(reader, [_CPU["count"]]),
    )


# -- the recording ---------------------------------------------------------------------------------------


def records_per_second(reader: TimeSeriesReader) -> Panel:
    """Return the records per second since the start."""
    store = reader.store
    seconds = 0.0 if store is None else (store.core.now() - store.start_ns) / 1e9
    value = None if store is None or seconds <= 0 else store.recorded / seconds
    return panel(
        "Records",
        "Records per second since the start, with any tags.",
        "stat",
        MetricUnit.OPERATIONS_PER_SECOND,
        [] if value is None else [one_series("records", {}, [], value)],
    )


def series(reader: TimeSeriesReader) -> Panel:
    """Return the number of series."""
    count = sum(len(view.series) for view in reader.views)
    return panel(
        "Series",
        "Series of all metrics and operations.",
        "stat",
        MetricUnit.COUNT,
        [one_series("series", {}, [], count)],
    )


def losses(reader: TimeSeriesReader, more: Mapping[str, int]) -> Panel:
    """Return the numbers of lost records, timers, exports and events.

    Args:
        reader: Provides the store.
        more: Further losses by name.
    """
    store, lost = reader.store, dict(more)
    if store is not None:
        own = {
            "rejected": store.rejected,
            "overflowed": store.overflowed,
            "abandoned timers": store.abandoned,
        }
        lost = {**own, **lost}
    return panel(
        "Losses",
        "Since the start: rejected records, records that lost a tag or a name to a budget, timers that were"
        " never stopped, outputs whose last export failed, and events that streams dropped. Outputs and"
        " streams are those of this process.",
        "table",
        MetricUnit.COUNT,
        [one_series(name, {}, [], number) for name, number in lost.items()],
    )


# -- series ----------------------------------------------------------------------------------------------


def _gauges(
    reader: TimeSeriesReader, names: Iterable[str], measure: Measure = level, *, by: str | None = None
) -> list[PanelSeries]:
    """Return each gauge as recorded, or as the monitor reads it now if it was not recorded.

    Args:
        reader: Reads both.
        names: The gauges.
        measure: Takes the number from a summary.
        by: The tag that distinguishes current values of one gauge.
    """
    found: list[PanelSeries] = []
    for name in names:
        recorded = reader.read_gauge(name)
        if recorded is not None and recorded.last is not None:
            found.append(one_series(name, {}, recorded.points(measure), measure({"last": recorded.last})))
            continue
        if reader.filters_gauge(name):  # the monitor does not know which series of it carry the tags
            continue
        for tags, value in reader.current_values(name):
            series = reader.from_reading(value)
            kept = {by: tags[by]} if by is not None and by in tags else {}
            found.append(one_series(name, kept, series.points(measure), measure(series.whole)))
    return found[:MAX_ROWS]


def _current(reader: TimeSeriesReader, names: Iterable[str]) -> list[PanelSeries]:
    return [
        one_series(name, tags, [], value) for name in names for tags, value in reader.current_values(name)
    ]
