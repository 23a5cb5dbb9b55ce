"""The configuration of a system: its keys, their allowed values, and the sources of values.

Each key is declared once, as a field of `Settings`. The declaration drives how values of all sources are
parsed and checked, the texts of errors, and the table in ``docs/configuration.md``, which a test compares.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metrics_framework.errors import ConfigurationError, InvalidInputError, nearest, reason_of
from metrics_framework.validation import safe_repr, word_repr

if TYPE_CHECKING:
    from metrics_framework.health import Thresholds
    from metrics_framework.recording import Rule, Store

TOML_TABLE = "metrics_framework"
"""The table of a TOML file; a ``pyproject.toml`` has it in ``[tool]``."""

VARIABLE_PREFIX = "METRICS_FRAMEWORK_"
"""The prefix of environment variables."""

OTHER_VARIABLES = frozenset(
    f"{VARIABLE_PREFIX}{name}" for name in ("PURE", "COMPILED", "DEBUG_CORE", "SHARED_KEY")
)
"""Environment variables of the recording engine and of worker processes, which are not configuration keys."""


class ValueKind(NamedTuple):
    """A kind of value.

    Attributes:
        description: The allowed values, for errors and the documentation.
        is_valid: Returns whether a value is allowed.
        parse: Parses the text of an environment variable; raises ``ValueError`` if the text is invalid.
    """

    description: str
    is_valid: Callable[[Any], bool]
    parse: Callable[[str], object]


class ConfigKey(NamedTuple):
    """The declaration of a key.

    Attributes:
        kind: The kind of its values.
        default: The default, for the documentation.
        meaning: The effect, for the documentation.
        at_start: Whether the key can be set only when a system is created.
        secret: Whether values may contain secrets, so that errors do not quote them.
    """

    kind: ValueKind
    default: str
    meaning: str
    at_start: bool = False
    secret: bool = False

    def quoted(self, value: object) -> str:
        """Return a value for an error message."""
        text = safe_repr(value)
        if not self.secret:
            return text
        from metrics_framework.export.endpoints import NAMES, quotable_scheme

        if isinstance(value, str):
            return repr(f"{quotable_scheme(value)}{':…' if ':' in value else ''}")
        words = re.findall(r"\w+", text)
        return text if all(word in NAMES or len(word) == 1 for word in words) else "***"


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)


def _is_tags(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(tag, str) and tag and isinstance(text, str) for tag, text in value.items()
    )


def _is_tables(value: object) -> bool:
    # Does not compare with `Rule`, which is slow to import: rules are parsed when a store is created.
    return isinstance(value, list | tuple) and not any(isinstance(table, str | int) for table in value)


def _is_error_classes(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        (isinstance(each, str) and each) or (isinstance(each, type) and issubclass(each, BaseException))
        for each in value
    )


def _parse_tags(text: str) -> dict[str, str]:
    tags = {}
    for pair in text.split(","):
        tag, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(text)
        tags[tag.strip()] = value.strip()
    return tags


def _parse_tables(text: str) -> object:
    import json

    return json.loads(text)


def _parse_flag(text: str) -> bool:
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


def _parse_shared(text: str) -> bool | str:
    try:
        return _parse_flag(text)
    except ValueError:
        return text


def _parse_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# The upper bound keeps `timedelta` from overflowing.
_POSITIVE = ValueKind("a positive number", lambda value: _is_number(value, 1e-9, 1e8), float)
_WHOLE = ValueKind(
    "an integer of 1 or more", lambda value: isinstance(value, int) and _is_number(value, 1, 1e12), int
)
_SHARE = ValueKind("a number from 0 to 1", lambda value: _is_number(value, 0, 1), float)
_PERCENT = ValueKind("a number from 0 to 100", lambda value: _is_number(value, 0, 100), float)
_FLAG = ValueKind("true or false", lambda value: isinstance(value, bool), _parse_flag)
_NAMES = ValueKind("a list of names", _is_names, _parse_names)
_TEXT = ValueKind("a non-empty string", lambda value: isinstance(value, str) and value != "", str)
_PATH = ValueKind("a path", lambda value: isinstance(value, str | os.PathLike) and str(value) != "", str)
_SHARED = ValueKind(
    "true, false or a folder",
    lambda value: isinstance(value, bool | str | os.PathLike) and str(value) != "",
    _parse_shared,
)
_TAGS = ValueKind("a table of strings, like service=shop", _is_tags, _parse_tags)
_RULES = ValueKind("an array of tables (JSON in a variable)", _is_tables, _parse_tables)
_ERRORS = ValueKind("a list of exceptions, like shop.errors.NotFound", _is_error_classes, _parse_names)
_ON_ERROR = ValueKind('"raise" or "log"', lambda value: value in ("raise", "log"), str)


def _key(
    kind: ValueKind, default: str, meaning: str, *, at_start: bool = False, secret: bool = False
) -> dict[str, ConfigKey]:
    return {"key": ConfigKey(kind, default, meaning, at_start, secret)}


@dataclass(frozen=True)
class Settings:
    """A checked configuration, ready to be applied.

    Each field is a key; ``None`` if the key is not set.
    """

    collection_interval: float | None = field(
        default=None,
        metadata=_key(
            _POSITIVE, "", "Seconds between two collections of resources and two exports to each output."
        ),
    )
    export_endpoints: list[str] | None = field(
        default=None,
        repr=False,
        metadata=_key(
            _NAMES, "", "Names and URLs of the [endpoints](exporting.md) to export to.", secret=True
        ),
    )
    export_timeout: float | None = field(
        default=None,
        metadata=_key(_POSITIVE, "30", "Time limit of an export to an output, in seconds."),
    )
    shutdown_timeout: float | None = field(
        default=None, metadata=_key(_POSITIVE, "5", "Time limit of `shutdown_metrics`, in seconds.")
    )
    prometheus_target: str | os.PathLike[str] | None = field(
        default=None,
        repr=False,
        metadata=_key(
            _PATH,
            "`metrics.prom`",
            "Target of the endpoint `prometheus`: a file, or a `pushgateway+http://…` URL.",
            secret=True,
        ),
    )
    snapshot_directory: str | os.PathLike[str] | None = field(
        default=None, metadata=_key(_PATH, "`snapshots`", "Folder of the files of `snapshot_writer`.")
    )
    snapshot_max_bytes: int | None = field(
        default=None,
        metadata=_key(_WHOLE, "", "Maximum size of all files of `snapshot_writer`; the oldest are deleted."),
    )
    shutdown_on_exit: bool | None = field(
        default=None, metadata=_key(_FLAG, "false", "Shut down at the interpreter's exit.")
    )
    shutdown_on_sigterm: bool | None = field(
        default=None, metadata=_key(_FLAG, "false", "Shut down on SIGTERM, then pass the signal on.")
    )
    latency_metric: str | None = field(
        default=None, metadata=_key(_TEXT, "the busiest", "The timer that becomes a snapshot's latency.")
    )
    custom_metrics: list[str] | None = field(
        default=None,
        metadata=_key(
            _NAMES, "all", "Patterns, like `http.*`, of names that become custom keys of a snapshot."
        ),
    )
    max_custom: int | None = field(
        default=None, metadata=_key(_WHOLE, "200", "Maximum number of custom keys of a snapshot.")
    )
    healthy_error_rate: float | None = field(
        default=None, metadata=_key(_SHARE, "0.5", "Maximum share of failures of a healthy system.")
    )
    healthy_min_operations: int | None = field(
        default=None,
        metadata=_key(_WHOLE, "20", "Number of operations below which failures do not matter."),
    )
    healthy_operations: list[str] | None = field(
        default=None,
        metadata=_key(_NAMES, "all", "Patterns, like `http.server.*`, of the operations that count."),
    )
    healthy_ignored_errors: list[str] | None = field(
        default=None,
        metadata=_key(
            _NAMES,
            "`cancelled`, `client_disconnect`, `unhealthy`, `4[0-9][0-9]`",
            "Patterns of the error types that do not count.",
        ),
    )
    healthy_memory_percent: float | None = field(
        default=None, metadata=_key(_PERCENT, "95", "Maximum memory usage of the container or machine.")
    )
    healthy_cpu_percent: float | None = field(
        default=None, metadata=_key(_PERCENT, "", "Maximum CPU usage of the container or machine.")
    )
    healthy_window: float | None = field(
        default=None, metadata=_key(_POSITIVE, "300", "Window of the error rate, in seconds.")
    )
    retention_days: float | None = field(
        default=None,
        metadata=_key(
            _POSITIVE,
            "30",
            "Maximum length of a time window, in days. If set, `snapshot_writer` also deletes files that are"
            " older.",
        ),
    )
    tags: Mapping[str, str] | None = field(
        default=None,
        metadata=_key(_TAGS, "", "Constant tags of every metric, such as the service's name.", at_start=True),
    )
    rules: list[Mapping[str, Any] | Rule] | None = field(
        default=None,
        metadata=_key(
            _RULES, "", "Rules that change or drop names and tags before they are recorded.", at_start=True
        ),
    )
    ignore: list[str | type[BaseException]] | None = field(
        default=None,
        metadata=_key(
            _ERRORS,
            "",
            "Exceptions that are successes of [measured](recording.md#measure) operations.",
            at_start=True,
        ),
    )
    failures: list[str | type[BaseException]] | None = field(
        default=None,
        metadata=_key(
            _ERRORS,
            "",
            "Exceptions that are failures although `ignore` or the default exempts them.",
            at_start=True,
        ),
    )
    on_error: str | None = field(
        default=None,
        metadata=_key(
            _ON_ERROR, "raise", "Whether bad input raises, or is counted and logged.", at_start=True
        ),
    )
    expire_after: float | None = field(
        default=None,
        metadata=_key(_POSITIVE, "", "Seconds after which an idle series is removed.", at_start=True),
    )
    shared: bool | str | os.PathLike[str] | None = field(
        default=None,
        metadata=_key(
            _SHARED,
            "false",
            "Whether [all workers](multiprocess.md) share their numbers, or the folder for that.",
            at_start=True,
        ),
    )
    max_series_per_name: int | None = field(
        default=None,
        metadata=_key(_WHOLE, "10000", "Maximum number of series of a metric or operation.", at_start=True),
    )
    max_series: int | None = field(
        default=None, metadata=_key(_WHOLE, "100000", "Maximum number of series in total.", at_start=True)
    )
    max_names: int | None = field(
        default=None,
        metadata=_key(_WHOLE, "2000", "Maximum number of metrics, and of operations.", at_start=True),
    )
    max_error_types: int | None = field(
        default=None,
        metadata=_key(_WHOLE, "100", "Maximum number of error types of an operation.", at_start=True),
    )

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Settings:
        """Check a configuration for an existing system.

        Raises:
            ConfigurationError: If a key is unknown, a value is not allowed, or a key is for new systems only.
        """
        settings = cls(**_checked(config))
        for key, value in settings.given().items():
            if KEYS[key].at_start:
                raise ConfigurationError(
                    f"{key}={value!r} cannot be set on an existing system: create one with"
                    f" MetricsSystem.from_config({{{key!r}: {value!r}}})"
                )
        return settings

    @classmethod
    def load(cls, config: Mapping[str, Any], file: str | Path | None, environ: Mapping[str, str]) -> Settings:
        """Read and check the configuration of a new system from three sources; later ones take precedence.

        Raises:
            ConfigurationError: If a key is unknown, a value is not allowed, or the file cannot be read.
        """
        from_file = {} if file is None else _checked(_read_file(Path(file)), f"{os.fspath(file)}: ")
        return cls(**{**from_file, **_read_environ(environ), **_checked(config)})

    def given(self) -> dict[str, Any]:
        """Return the keys that are set."""
        values = ((key, getattr(self, key)) for key in KEYS)
        return {key: value for key, value in values if value is not None}

    def updated(self, later: Settings) -> Settings:
        """Return these settings, overridden by those of a later configuration."""
        return replace(self, **later.given())

    @property
    def retention(self) -> timedelta | None:
        """The maximum length of a time window; ``None`` to keep the current one."""
        return None if self.retention_days is None else timedelta(days=self.retention_days)

    def thresholds(self, before: Thresholds) -> Thresholds:
        """Return ``before``, overridden by the thresholds that are set."""
        given: dict[str, Any] = {
            "error_rate": self.healthy_error_rate,
            "memory_percent": self.healthy_memory_percent,
            "cpu_percent": self.healthy_cpu_percent,
            "window": None if self.healthy_window is None else timedelta(seconds=self.healthy_window),
            "min_operations": self.healthy_min_operations,
            "operations": self.healthy_operations,
            "ignored_errors": self.healthy_ignored_errors,
        }
        return replace(before, **{name: limit for name, limit in given.items() if limit is not None})

    def urls(self) -> dict[str, str]:
        """Return the names of endpoints with their configured URLs."""
        from urllib.parse import quote

        from metrics_framework.export.endpoints import NAMES

        urls = dict(NAMES)
        folder = "snapshots" if self.snapshot_directory is None else os.fspath(self.snapshot_directory)
        limits = {"retention_days": self.retention_days, "max_bytes": self.snapshot_max_bytes}
        query = "&".join(f"{name}={limit}" for name, limit in limits.items() if limit is not None)
        urls["snapshot_writer"] = f"snapshot:{quote(folder)}{'?' if query else ''}{query}"
        if self.prometheus_target is not None:
            target = os.fspath(self.prometheus_target)
            urls["prometheus"] = target if _is_url(target) else f"textfile:{quote(target)}"
        return urls

    def endpoints(self) -> dict[str, str]:
        """Return the endpoints to export to: each configured name or URL, with its URL."""
        if not self.export_endpoints:
            return {}
        urls = self.urls()
        return {endpoint: urls.get(endpoint, endpoint) for endpoint in self.export_endpoints}

    def error_classes(self, key: str) -> list[type[BaseException]]:
        """Import and return the exceptions of the key ``ignore`` or ``failures``.

        Raises:
            ConfigurationError: If one cannot be imported, or is not a class of exceptions.
        """
        given: list[str | type[BaseException]] = getattr(self, key) or []
        return [_error_class(key, each) if isinstance(each, str) else each for each in given]

    def store(self) -> Store:
        """Create the store of a new system."""
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
"""All keys with their declarations."""


def _checked(config: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Check all keys and return those that have a value; errors begin with ``source``."""
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"{source}{word_repr(config)} is not a mapping of keys to values")
    for key, value in config.items():
        if key not in KEYS:
            raise ConfigurationError(
                f"{source}unknown configuration key {safe_repr(key)}.{nearest(str(key), KEYS)}"
            )
        kind = KEYS[key].kind
        if value is not None and not kind.is_valid(value):
            quoted = KEYS[key].quoted(value)
            remedy = f": pass a list: [{quoted}]" if kind is _NAMES and isinstance(value, str) else ""
            raise ConfigurationError(f"{source}{key}={quoted} is not {kind.description}{remedy}")
    _check_endpoints(config, source)
    return {key: value for key, value in config.items() if value is not None}


def _check_endpoints(config: Mapping[str, Any], source: str) -> None:
    names = config.get("export_endpoints") or ()
    # Errors do not quote an endpoint, so they state which of several it is.
    endpoints = [
        (f"export_endpoints{f'[{index}]' if len(names) > 1 else ''}: ", name)
        for index, name in enumerate(names)
    ]
    target = config.get("prometheus_target")
    if target is not None and _is_url(os.fspath(target)):
        endpoints.append(("prometheus_target: ", os.fspath(target)))
    for key, endpoint in endpoints:
        from metrics_framework.export.endpoints import make_endpoint

        try:
            make_endpoint(endpoint)  # sends nothing
        except InvalidInputError as error:
            raise ConfigurationError(f"{source}{key}{error}") from None


def _is_url(target: str) -> bool:
    """Return whether a target is a URL, also a mistyped one, instead of the path of a file."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9._]*(:|\+[a-z]+)", target)
    return "://" in target or (scheme is not None and len(scheme[0]) > 2)  # two characters are a drive


def _error_class(key: str, path: str) -> type[BaseException]:
    from pkgutil import resolve_name

    try:
        found = resolve_name(path if "." in path else f"builtins.{path}")
    except Exception as error:  # the module may raise anything
        raise ConfigurationError(
            f"{key}: {path!r} cannot be imported: {safe_repr(error)}; pass the path of a class, like"
            " 'shop.errors.NotFound'"
        ) from error
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise ConfigurationError(f"{key}: {path!r} is {safe_repr(found)}, which is not a class of exceptions")
    return found


def _parsed_rules(tables: Iterable[Mapping[str, Any] | Rule]) -> list[Rule]:
    from metrics_framework.recording import Rule

    try:
        return [table if isinstance(table, Rule) else Rule.parse(table) for table in tables]
    except InvalidInputError as error:
        raise ConfigurationError(f"rules: {error}") from error


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {f"{VARIABLE_PREFIX}{key.upper()}": key for key in KEYS}
    for variable, text in environ.items():
        if not variable.startswith(VARIABLE_PREFIX) or variable in OTHER_VARIABLES:
            continue
        if variable not in known and _is_of_kubernetes(variable, text):
            continue
        if variable not in known:
            raise ConfigurationError(f"unknown environment variable {variable!r}.{nearest(variable, known)}")
        key = known[variable]
        kind = KEYS[key].kind
        try:
            value = kind.parse(text)
        except (ValueError, RecursionError):
            value = None
        if not kind.is_valid(value):
            raise ConfigurationError(f"{variable}={KEYS[key].quoted(text)} is not {kind.description}")
        found |= _checked({key: value}, f"{variable}={KEYS[key].quoted(text)}: ")
    return found


_KUBERNETES = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)


def _is_of_kubernetes(variable: str, text: str) -> bool:
    """Return whether Kubernetes sets a variable in each container for a service of our name."""
    name = variable.removeprefix(VARIABLE_PREFIX)
    is_address = name.endswith("PORT") and re.match("(tcp|udp|sctp)://", text) is not None
    return is_address or _KUBERNETES.fullmatch(name) is not None


MAX_FILE_BYTES = 1 << 20
"""The size of a configuration file."""


def _read_file(path: Path) -> Any:
    import tomllib  # slow to import

    from metrics_framework.runtime.atomic_files import read_file

    try:
        content = read_file(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        raise ConfigurationError(f"cannot read {str(path)!r}: {reason_of(error)}") from error
    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{str(path)!r} is not valid TOML: save it as UTF-8") from error
    except ValueError as error:
        raise ConfigurationError(f"{str(path)!r} is not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigurationError(f"{str(path)!r} is not valid TOML: it is nested too deeply") from None
    place = f"tool.{TOML_TABLE}" if path.name == "pyproject.toml" else TOML_TABLE
    for name in place.split("."):
        if not isinstance(document, Mapping) or name not in document:
            raise ConfigurationError(f"{str(path)!r} has no table [{place}]")
        document = document[name]
    return document
