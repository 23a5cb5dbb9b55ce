"""Reads the name, the tags and the field of a series back from a line."""

from __future__ import annotations

import re


def unescaped(text):
    """Return the text that was escaped."""
    if not text.startswith("U__"):
        return text
    return re.sub(r"_(?:_|([0-9A-F]+)_)", lambda match: chr(int(match[1], 16)) if match[1] else "_", text[3:])


def read_name(name):
    """Return a name without its field, and the field."""
    parts = name.split(".")
    if any(parts[-1] in fields for fields in FIELDS.values()):
        return ".".join(map(unescaped, parts[:-1])), parts[-1]
    return ".".join(map(unescaped, parts)), ""


def read_pairs(text, separator, equals):
    """Return tags."""
    pairs = (pair.partition(equals) for pair in text.split(separator) if pair)
    return frozenset((unescaped(tag), unescaped(value)) for tag, _, value in pairs)


def read_path(path):
    """Return the name, tags and field of a path with its tags."""
    parts = path.split(".")
    tags = [part for part in parts if "=" in part]
    name, field = read_name(".".join(part for part in parts if "=" not in part))
    return name, read_pairs(".".join(tags), ".", "="), field


def read_statsd(text):
    """Return the name, tags and field of a line with tags as Datadog's."""
    start, _, rest = text.partition(":")
    return (*read_name(start)[:1], read_pairs(rest.partition("|#")[2], ",", ":"), read_name(start)[1])


def read_tagged(path, separator):
    """Return the name, tags and field of a path with its tags after it."""
    start, _, tags = path.partition(separator)
    return (*read_name(start)[:1], read_pairs(tags, separator, "="), read_name(start)[1])


def read_influx(line):
    """Return the measurement, tags and first field of a line."""
    series, fields, _ = re.split(r"(?<!\\) ", line)
    name, *tags = re.split(r"(?<!\\),", series)
    pairs = [[re.sub(r"\\(.)", r"\1", text) for text in re.split(r"(?<!\\)=", tag)] for tag in tags]
    name = re.sub(r"\\(.)", r"\1", name)
    return (
        unescaped(name),
        frozenset((unescaped(tag), unescaped(text)) for tag, text in pairs),
        fields.partition("=")[0],
    )


READERS = {
    "graphite://h": lambda line: read_path(line.split(" ")[0]),
    "graphite://h?tags=graphite": lambda line: read_tagged(line.split(" ")[0], ";"),
    "statsd://h": lambda line: read_path(line.text.partition(":")[0]),
    "statsd://h?tags=datadog": lambda line: read_statsd(line.text),
    "statsd://h?tags=influx": lambda line: read_tagged(line.text.partition(":")[0], ","),
    "influx+http://h?db=x": read_influx,
}
SUMMARY = {"count", "sum", "avg", "min", "max", "stddev", "p50", "p90", "p95", "p99"}
OUTCOMES = {"count", "successes", "failures", "success_rate"}
FIELDS = {
    "counter": {"", "value"},
    "histogram": SUMMARY,
    "durations": {f"duration_{field}" for field in SUMMARY},
    "outcomes": {f"operations_{field}" for field in OUTCOMES},
}
