"""The facade's configuration: which keys there are, what their values may be, and where they come from.

Each key is declared once, as a field of `Settings`: by that, values of every source are read and checked,
errors are worded, and the table in ``docs/configuration.md`` is tested.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metrics_framework.errors import ConfigurationError, InvalidInputError, nearest

if TYPE_CHECKING:
    from metrics_framework.health import Thresholds
    from metrics_framework.recording import Rule, Store

TABLE = "metrics_framework"
"""The table of a TOML file; in a ``pyproject.toml`` it is in ``[tool]``."""

PREFIX = "METRICS_FRAMEWORK_"
"""What the names of environment variables begin with."""

ENGINE_VARIABLES = frozenset(f"{PREFIX}{name}" for name in ("PURE", "COMPILED", "DEBUG_CORE"))
"""Environment variables that choose or build the recording engine and are no configuration keys."""


class ValueKind(NamedTuple):
    """A kind of value.

    Attributes:
        says: What a value has to be, for errors and the documentation.
        holds: Says whether a value is of this kind.
        read: Makes one of the text of an environment variable; raises ``ValueError`` where it cannot.
    """

    description: str
    is_valid: Callable[[Any], bool]
    parse: Callable[[str], object]


class ConfigKey(NamedTuple):
    """What is declared of a key.

    Attributes:
        kind: What its values are.
        default: What holds without it, for the documentation.
        meaning: What it does, for the documentation.
        at_start: Whether it is decided when a system is made, and not later.
        secret: Whether values may have secrets, so that errors do not quote what may be a URL.
    """

    kind: ValueKind
    default: str
    meaning: str
    at_start: bool = False
    secret: bool = False

    def quoted(self, value: object) -> str:
        """Return a value as errors quote it."""
        if not self.secret:
            return repr(value)
        from metrics_framework.export.endpoints import hide_urls

        return hide_urls(repr(value))


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)


def _is_tags(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(tag, str) and tag and isinstance(text, str) for tag, text in value.items()
    )


def _is_tables(value: object) -> bool:
    # Without a `Rule` to compare with, as what records is slow to import: each is read when a store is made.
    return isinstance(value, list | tuple) and not any(isinstance(table, str | int) for table in value)


def _read_tags(text: str) -> dict[str, str]:
    tags = {}
    for pair in text.split(","):
        tag, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(text)
        tags[tag.strip()] = value.strip()
    return tags


def _read_tables(text: str) -> object:
    import json

    return json.loads(text)


def _read_flag(text: str) -> bool:
    flags = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in flags:
        raise ValueError(text)
    return flags[text.lower()]


def _read_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# An upper bound that no one needs keeps `timedelta` from overflowing.
_POSITIVE = ValueKind("a positive number", lambda value: _is_number(value, 1e-9, 1e8), float)
_WHOLE = ValueKind(
    "a whole number of 1 or more", lambda value: isinstance(value, int) and _is_number(value, 1, 1e12), int
)
_SHARE = ValueKind("a number from 0 to 1", lambda value: _is_number(value, 0, 1), float)
_PERCENT = ValueKind("a number from 0 to 100", lambda value: _is_number(value, 0, 100), float)
_FLAG = ValueKind("true or false", lambda value: isinstance(value, bool), _read_flag)
_NAMES = ValueKind("a list of names", _is_names, _read_names)
_TEXT = ValueKind("a text that is not empty", lambda value: isinstance(value, str) and value != "", str)
_PATH = ValueKind("a path", lambda value: isinstance(value, str | os.PathLike) and str(value) != "", str)
_TAGS = ValueKind("a table of tag to text, like service=shop", _is_tags, _read_tags)
_RULES = ValueKind("an array of tables (JSON in a variable)", _is_tables, _read_tables)
_ON_ERROR = ValueKind('"raise" or "log"', lambda value: value in ("raise", "log"), str)


def _key(
    kind: ValueKind, default: str, meaning: str, *, at_start: bool = False, secret: bool = False
) -> dict[str, ConfigKey]:
    return {"key": ConfigKey(kind, default, meaning, at_start, secret)}


@dataclass(frozen=True)
class Settings:
    """A configuration that was checked as a whole, before any of it is applied.

    Every field is a key, ``None`` where it was not given.
    """

    collection_interval: float | None = field(
        default=None,
        metadata=_key(
            _POSITIVE, "", "Seconds between two readings of the machine and two snapshots to each output."
        ),
    )
    export_endpoints: list[str] | None = field(
        default=None,
        metadata=_key(
            _NAMES, "", "Where to export to: names and URLs of [endpoints](exporting.md).", secret=True
        ),
    )
    export_timeout: float | None = field(
        default=None,
        metadata=_key(_POSITIVE, "30", "Seconds that `export_metrics_async` waits for an endpoint."),
    )
    prometheus_target: str | os.PathLike[str] | None = field(
        default=None,
        metadata=_key(
            _PATH,
            "`metrics.prom`",
            "Where the endpoint `prometheus` goes: a file, or a `pushgateway+http://…`.",
            secret=True,
        ),
    )
    snapshot_directory: str | os.PathLike[str] | None = field(
        default=None, metadata=_key(_PATH, "`snapshots`", "Where `snapshot_writer` puts its files.")
    )
    snapshot_max_bytes: int | None = field(
        default=None,
        metadata=_key(_WHOLE, "", "Bytes that the files of `snapshot_writer` take up, before the oldest go."),
    )
    shutdown_on_exit: bool | None = field(
        default=None, metadata=_key(_FLAG, "false", "Shut down at the interpreter's exit.")
    )
    shutdown_on_sigterm: bool | None = field(
        default=None, metadata=_key(_FLAG, "false", "Shut down on SIGTERM, then pass it on.")
    )
    latency_metric: str | None = field(
        default=None, metadata=_key(_TEXT, "the busiest", "The timer that becomes a snapshot's latency.")
    )
    custom_metrics: list[str] | None = field(
        default=None,
        metadata=_key(
            _NAMES, "all", "Patterns like `http.*` of names that become custom keys of a snapshot."
        ),
    )
    max_custom: int | None = field(
        default=None, metadata=_key(_WHOLE, "200", "Custom keys of a snapshot at most.")
    )
    healthy_error_rate: float | None = field(
        default=None, metadata=_key(_SHARE, "0.05", "Healthy up to this share of failures.")
    )
    healthy_memory_percent: float | None = field(
        default=None, metadata=_key(_PERCENT, "95", "Healthy up to this use of the machine's memory.")
    )
    healthy_cpu_percent: float | None = field(
        default=None, metadata=_key(_PERCENT, "", "Healthy up to this use of the machine's CPU.")
    )
    healthy_window: float | None = field(
        default=None, metadata=_key(_POSITIVE, "300", "Seconds that the error rate looks back.")
    )
    retention_days: float | None = field(
        default=None,
        metadata=_key(
            _POSITIVE,
            "30",
            "Days that a time window may reach back; where it is given, also days that `snapshot_writer`"
            " keeps its files.",
        ),
    )
    tags: Mapping[str, str] | None = field(
        default=None,
        metadata=_key(_TAGS, "", "Constant tags of every metric, such as the service's name.", at_start=True),
    )
    rules: list[Mapping[str, Any] | Rule] | None = field(
        default=None,
        metadata=_key(_RULES, "", "What is done to names and tags before they are recorded.", at_start=True),
    )
    on_error: str | None = field(
        default=None,
        metadata=_key(
            _ON_ERROR, "raise", "Whether bad input raises, or is counted and logged.", at_start=True
        ),
    )
    expire_after: float | None = field(
        default=None,
        metadata=_key(_POSITIVE, "", "Seconds after which an idle series is forgotten.", at_start=True),
    )
    max_series_per_name: int | None = field(
        default=None, metadata=_key(_WHOLE, "10000", "Series of one metric or operation.", at_start=True)
    )
    max_series: int | None = field(
        default=None, metadata=_key(_WHOLE, "100000", "Series in all.", at_start=True)
    )
    max_names: int | None = field(
        default=None, metadata=_key(_WHOLE, "2000", "Metrics, and operations.", at_start=True)
    )
    max_error_types: int | None = field(
        default=None, metadata=_key(_WHOLE, "100", "Error types of one operation.", at_start=True)
    )

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Settings:
        """Check a configuration for a system that exists.

        Raises:
            ConfigurationError: If a key is unknown, a value is not allowed, or a key comes too late.
        """
        settings = cls(**_checked(config))
        for key, value in settings.given().items():
            if KEYS[key].at_start:
                raise ConfigurationError(
                    f"{key}={value!r} comes too late for this system: make one with"
                    f" MetricsSystem.from_config({{{key!r}: {value!r}}})"
                )
        return settings

    @classmethod
    def load(cls, config: Mapping[str, Any], file: str | Path | None, environ: Mapping[str, str]) -> Settings:
        """Read and check the configuration of a new system, of three sources of which the later wins.

        Raises:
            ConfigurationError: If a key is unknown, a value is not allowed, or the file cannot be read.
        """
        from_file = {} if file is None else _checked(_read_file(Path(file)), f"{os.fspath(file)}: ")
        return cls(**{**from_file, **_read_environ(environ), **_checked(config)})

    def given(self) -> dict[str, Any]:
        """Return the keys that were given."""
        values = ((key, getattr(self, key)) for key in KEYS)
        return {key: value for key, value in values if value is not None}

    def updated(self, later: Settings) -> Settings:
        """Return these settings with those of a later configuration in their place."""
        return replace(self, **later.given())

    @property
    def retention(self) -> timedelta | None:
        """How far back a time window may reach; ``None`` to leave it as it is."""
        return None if self.retention_days is None else timedelta(days=self.retention_days)

    def thresholds(self, before: Thresholds) -> Thresholds:
        """Return thresholds with those that were given in place of what was before."""
        given: dict[str, Any] = {
            "error_rate": self.healthy_error_rate,
            "memory_percent": self.healthy_memory_percent,
            "cpu_percent": self.healthy_cpu_percent,
            "window": None if self.healthy_window is None else timedelta(seconds=self.healthy_window),
        }
        return replace(before, **{name: limit for name, limit in given.items() if limit is not None})

    def urls(self) -> dict[str, str]:
        """Return the names of endpoints that stand for a URL, with the URL that is configured."""
        from urllib.parse import quote

        from metrics_framework.export.endpoints import NAMES

        urls = dict(NAMES)
        folder = "snapshots" if self.snapshot_directory is None else os.fspath(self.snapshot_directory)
        limits = {"retention_days": self.retention_days, "max_bytes": self.snapshot_max_bytes}
        query = "&".join(f"{name}={limit}" for name, limit in limits.items() if limit is not None)
        urls["snapshot_writer"] = f"snapshot:{quote(folder)}{'?' if query else ''}{query}"
        if self.prometheus_target is not None:
            target = os.fspath(self.prometheus_target)
            urls["prometheus"] = target if "://" in target else f"textfile:{quote(target)}"
        return urls

    def endpoints(self) -> dict[str, str]:
        """Return what is to be exported to: each name or URL as it was given, with the URL that it means."""
        if not self.export_endpoints:
            return {}
        urls = self.urls()
        return {endpoint: urls.get(endpoint, endpoint) for endpoint in self.export_endpoints}

    def store(self) -> Store:
        """Make the store of a new system."""
        from metrics_framework.recording import Budgets, Store

        budgets = {
            "series_per_name": self.max_series_per_name,
            "series": self.max_series,
            "names": self.max_names,
            "error_types": self.max_error_types,
        }
        return Store(
            on_error="log" if self.on_error == "log" else "raise",
            budgets=Budgets(**{name: budget for name, budget in budgets.items() if budget is not None}),
            expire_after=None if self.expire_after is None else timedelta(seconds=self.expire_after),
            tags=self.tags,
            rules=_parsed_rules(self.rules or ()),
        )


KEYS: Mapping[str, ConfigKey] = {setting.name: setting.metadata["key"] for setting in fields(Settings)}
"""Every key and what is declared of it."""


def _checked(config: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Return the keys that have a value, checked; ``source`` begins the errors."""
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"{source}{config!r} is not a mapping of keys to values")
    for key, value in config.items():
        if key not in KEYS:
            raise ConfigurationError(f"{source}unknown configuration key {key!r}.{nearest(str(key), KEYS)}")
        kind = KEYS[key].kind
        if value is not None and not kind.is_valid(value):
            raise ConfigurationError(f"{source}{key}={KEYS[key].quoted(value)} is not {kind.description}")
    _check_endpoints(config, source)
    return {key: value for key, value in config.items() if value is not None}


def _check_endpoints(config: Mapping[str, Any], source: str) -> None:
    endpoints = [("export_endpoints: ", name) for name in config.get("export_endpoints") or ()]
    target = config.get("prometheus_target")
    if target is not None and "://" in os.fspath(target):
        endpoints.append(("prometheus_target: ", os.fspath(target)))
    for key, endpoint in endpoints:
        from metrics_framework.export.endpoints import make_endpoint

        try:
            make_endpoint(endpoint)  # which sends nothing
        except InvalidInputError as error:
            raise ConfigurationError(f"{source}{key}{error}") from None


def _parsed_rules(tables: Iterable[Mapping[str, Any] | Rule]) -> list[Rule]:
    from metrics_framework.recording import Rule

    try:
        return [table if isinstance(table, Rule) else Rule.parse(table) for table in tables]
    except InvalidInputError as error:
        raise ConfigurationError(f"rules: {error}") from error


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {f"{PREFIX}{key.upper()}": key for key in KEYS}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in ENGINE_VARIABLES:
            continue
        if variable not in known:
            raise ConfigurationError(f"unknown environment variable {variable!r}.{nearest(variable, known)}")
        key = known[variable]
        kind = KEYS[key].kind
        try:
            value = kind.parse(text)
        except ValueError:
            value = None
        if not kind.is_valid(value):
            raise ConfigurationError(f"{variable}={KEYS[key].quoted(text)} is not {kind.description}")
        found |= _checked({key: value}, f"{variable}={KEYS[key].quoted(text)}: ")
    return found


def _read_file(path: Path) -> Any:
    import tomllib  # slow to import

    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigurationError(f"{str(path)!r} is no TOML: {error}") from error
    place = f"tool.{TABLE}" if path.name == "pyproject.toml" else TABLE
    for name in place.split("."):
        if not isinstance(document, Mapping) or name not in document:
            raise ConfigurationError(f"{str(path)!r} has no table [{place}]")
        document = document[name]
    return document
