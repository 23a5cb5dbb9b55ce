"""Configurations are checked as a whole before any of them is applied, wherever their keys come from."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework import MetricsSystem, Thresholds
from metrics_framework.config import KEYS, VARIABLE_PREFIX, Settings
from metrics_framework.errors import ConfigurationError
from metrics_framework.export.endpoints import NAMES
from metrics_framework.export.exporter import DEFAULT_EXPORT_TIMEOUT_SECONDS
from metrics_framework.plugins import load_adapter
from metrics_framework.recording import Budgets, Rule, Store
from metrics_framework.snapshots.build import MAX_CUSTOM

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"

EXAMPLES = {
    "collection_interval": (0.5, "0.5"),
    "export_endpoints": (["snapshot_writer"], " snapshot_writer, "),
    "export_timeout": (5, "5"),
    "shutdown_timeout": (2.5, "2.5"),
    "prometheus_target": ("app.prom", "app.prom"),
    "snapshot_directory": ("kept here", "kept here"),
    "snapshot_max_bytes": (1_000_000, "1000000"),
    "shutdown_on_exit": (True, "yes"),
    "shutdown_on_sigterm": (False, "FALSE"),
    "latency_metric": ("checkout", "checkout"),
    "custom_metrics": (["http.*", "db.*"], "http.*,db.*"),
    "max_custom": (10, "10"),
    "healthy_error_rate": (0.2, "0.2"),
    "healthy_min_operations": (5, "5"),
    "healthy_operations": (["http.*", "checkout"], "http.*,checkout"),
    "healthy_ignored_errors": (["4*"], "4*"),
    "healthy_memory_percent": (80, "80"),
    "healthy_cpu_percent": (70.5, "70.5"),
    "healthy_window": (60, "60"),
    "retention_days": (7, "7"),
    "tags": ({"service": "shop", "environment": "test"}, "service=shop, environment = test"),
    "rules": ([{"names": "http.*", "drop_tags": ["user"]}], '[{"names": "http.*", "drop_tags": ["user"]}]'),
    "ignore": (
        ["LookupError", "concurrent.futures.CancelledError"],
        "LookupError, concurrent.futures.CancelledError",
    ),
    "failures": (["asyncio.CancelledError"], "asyncio.CancelledError"),
    "on_error": ("log", "log"),
    "expire_after": (3600, "3600"),
    "shared": ("shop/numbers", "shop/numbers"),
    "max_series_per_name": (10, "10"),
    "max_series": (100, "100"),
    "max_names": (20, "20"),
    "max_error_types": (5, "5"),
}
"""A value of each key, and the equivalent text of an environment variable."""

LATER = {key: value for key, (value, _) in EXAMPLES.items() if not KEYS[key].at_start}
"""Those that a system that exists takes."""


def variable(key: str) -> str:
    """Return the name of a key's environment variable."""
    return f"METRICS_FRAMEWORK_{key.upper()}"


def toml(table: str, config: dict[str, object]) -> str:
    """Return a table as TOML, whose plain values look like JSON."""
    return "\n".join([f"[{table}]", *(f"{key} = {inline(value)}" for key, value in config.items())])


def inline(value: object) -> str:
    """Return a value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value)


# -- one declaration ---------------------------------------------------------------------------------------


def test_the_documentation_has_every_key_as_declared():
    """The table of `docs/configuration.md` equals the declarations."""
    rows = [
        f"| `{name}` | {key.kind.description} | {key.default or '-'} | {key.meaning}"
        + (" *At the start only.* |" if key.at_start else " |")
        for name, key in KEYS.items()
    ]
    documented = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| `")]
    assert documented == rows


def test_the_defaults_are_those_of_the_parts():
    """A documented default is the behaviour without the key."""
    budgets, thresholds = Budgets(), Thresholds()
    parameters = inspect.signature(MetricsSystem).parameters
    assert {name: key.default for name, key in KEYS.items() if key.default[:1].isdigit()} == {
        "export_timeout": f"{DEFAULT_EXPORT_TIMEOUT_SECONDS:g}",
        "shutdown_timeout": f"{parameters['shutdown_timeout'].default:g}",
        "max_custom": str(MAX_CUSTOM),
        "healthy_error_rate": str(thresholds.error_rate),
        "healthy_min_operations": str(thresholds.min_operations),
        "healthy_memory_percent": f"{thresholds.memory_percent:g}",
        "healthy_window": f"{thresholds.window.total_seconds():g}",
        "retention_days": str(Store().retention.days),
        "max_series_per_name": str(budgets.series_per_name),
        "max_series": str(budgets.series),
        "max_names": str(budgets.names),
        "max_error_types": str(budgets.error_types),
    }
    ignored = KEYS["healthy_ignored_errors"].default
    assert ignored == ", ".join(f"`{pattern}`" for pattern in thresholds.ignored_errors)
    for key in ("shutdown_on_exit", "shutdown_on_sigterm", "shared"):
        assert KEYS[key].default == str(parameters[key].default).lower()
    assert KEYS["on_error"].default == inspect.signature(Store).parameters["on_error"].default
    assert KEYS["snapshot_directory"].default == f"`{load_adapter('snapshot_writer')().folder}`"
    assert NAMES["snapshot_writer"] == f"snapshot:{load_adapter('snapshot_writer')().folder}"
    assert NAMES["prometheus"] == f"textfile:{KEYS['prometheus_target'].default.strip('`')}"


def test_every_key_has_an_example_here():
    """A new key is tested with every source."""
    assert EXAMPLES.keys() == KEYS.keys()


# -- a mapping ---------------------------------------------------------------------------------------------


def test_every_key_is_understood():
    """Each key becomes one setting."""
    assert Settings.parse(LATER).given() == LATER


@pytest.mark.parametrize("config", [{}, {"collection_interval": None, "export_endpoints": None}])
def test_every_key_may_be_left_out(config):
    """Keys that are not configured keep their values; `None` means not configured."""
    assert Settings.parse(config) == Settings()
    assert Settings().given() == {}


def test_a_retention_may_be_shorter_than_a_day():
    """Fractions of a day are allowed."""
    assert Settings.parse({"retention_days": 0.5}).retention == timedelta(hours=12)


def test_later_settings_replace_their_own_keys_only():
    """Keys that a later configuration lacks keep their values."""
    before = Settings.parse({"max_custom": 5, "retention_days": 3})
    assert before.updated(Settings.parse({"max_custom": 7})).given() == {"max_custom": 7, "retention_days": 3}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("colection_interval", "collection_interval"),
        ("retention", "retention_days"),
        ("export_endpoint", "export_endpoints"),
        ("max_serie", "max_series"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, meant):
    """A misspelled key is an error in every source."""
    for parse in (
        lambda: Settings.parse({key: 1}),
        lambda: Settings.load({key: 1}, None, {}),
        lambda: Settings.load({}, None, {variable(key): "1"}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            parse()
        assert key in str(caught.value).lower()
        assert "Did you mean" in str(caught.value)
        assert meant in str(caught.value).lower()


@pytest.mark.parametrize("config", [None, 3, "collection_interval", ["collection_interval"]])
def test_a_configuration_is_a_mapping(config):
    """Any other value raises an error."""
    with pytest.raises(ConfigurationError, match="is not a mapping"):
        Settings.parse(config)


WRONG = [0, -1, math.nan, math.inf, -math.inf, True, False, "60", [60], 10**400]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: str(value)[:6])
@pytest.mark.parametrize("key", ["collection_interval", "retention_days", "healthy_window", "max_custom"])
def test_numbers_are_positive(key, value):
    """The error for a number that is not positive quotes it and its key."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.parse({key: value})
    assert str(caught.value) == f"{key}={value!r} is not {KEYS[key].kind.description}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("healthy_error_rate", 1.1),
        ("healthy_error_rate", -0.1),
        ("healthy_error_rate", math.nan),
        ("healthy_memory_percent", 101),
        ("healthy_cpu_percent", True),
        ("max_custom", 1.5),
        ("shutdown_on_exit", 1),
        ("shutdown_on_sigterm", "true"),
        ("on_error", "ignore"),
        ("on_error", True),
        ("latency_metric", ""),
        ("latency_metric", 3),
        ("custom_metrics", "http.*"),
        ("custom_metrics", [""]),
        ("tags", ["service"]),
        ("tags", {"service": 3}),
        ("tags", {"": "shop"}),
        ("rules", {"names": "a"}),
        ("rules", ["http.*"]),
        ("snapshot_directory", 3),
        ("snapshot_directory", ""),
        ("export_endpoints", "snapshot_writer"),
        ("export_endpoints", 3),
        ("export_endpoints", [3]),
        ("export_endpoints", [["snapshot_writer"]]),
        ("export_endpoints", {"snapshot_writer": 1}),
    ],
)
def test_a_value_of_another_kind_is_quoted(key, value):
    """The error names the allowed values."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({key: value}, None, {})
    expected = f"{key}={value!r} is not {KEYS[key].kind.description}"
    if key in ("custom_metrics", "export_endpoints") and isinstance(value, str):
        expected += f": pass a list: [{value!r}]"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["snapshot_writer", "snapshot_riter"],
            r"\[1\]: unknown endpoint. Did you mean 'snapshot_writer'",
        ),
        (
            ["newrelic"],
            r"unknown endpoint. Known: .*influx\+http.*prometheus.*statsd.*webhook\+https",
        ),
    ],
)
def test_an_unknown_endpoint_lists_the_known_ones(names, message):
    """An unknown name is an error also beside a known one, and from every source."""
    with pytest.raises(ConfigurationError, match=message):
        Settings.parse({"export_endpoints": names})
    with pytest.raises(ConfigurationError, match=f"METRICS_FRAMEWORK_EXPORT_ENDPOINTS=.*{message}"):
        Settings.load({}, None, {variable("export_endpoints"): ",".join(names)})


@pytest.mark.parametrize("key", ["export_endpoints", "prometheus_target"])
def test_no_error_quotes_a_secret(key):
    """No source quotes a URL that is invalid or misplaced."""
    url = "influx+http://me:geheim@host?tokn=geheim2"
    wrong = [url] if key == "export_endpoints" else url
    for parse in (
        lambda: Settings.parse({key: wrong}),
        lambda: Settings.parse({"export_endpoints": url}),
        lambda: Settings.load({}, None, {variable(key): url}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            parse()
        assert "geheim" not in str(caught.value)
        assert "influx+http" in str(caught.value)


@pytest.mark.parametrize(
    ("variable_", "text"),
    [
        ("METRICS_FRAMEWORK_PORT", "tcp://10.0.0.1:80"),
        ("METRICS_FRAMEWORK_SERVICE_HOST", "10.0.0.1"),
        ("METRICS_FRAMEWORK_SERVICE_PORT", "80"),
        ("METRICS_FRAMEWORK_SERVICE_PORT_HTTP", "80"),
        ("METRICS_FRAMEWORK_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("METRICS_FRAMEWORK_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("METRICS_FRAMEWORK_PORT_80_TCP_PORT", "80"),
        ("METRICS_FRAMEWORK_PORT_53_UDP_PROTO", "udp"),
        ("METRICS_FRAMEWORK_WEB_PORT", "tcp://10.0.0.1:80"),
        ("METRICS_FRAMEWORK_WEB_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_the_variables_of_a_kubernetes_service_are_ignored(variable_, text):
    """Kubernetes sets them in each container if a service is called metrics-framework."""
    assert Settings.load({}, None, {variable_: text}).given() == {}
    with pytest.raises(ConfigurationError, match="unknown environment variable"):
        Settings.load({}, None, {"METRICS_FRAMEWORK_PORT": "8080"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[metrics_framework]\nmax_series = 5".encode("utf-16"), "not valid TOML: save it as UTF-8"),
        (b"\xff", "not valid TOML: save it as UTF-8"),
        (b"a = " + b"[" * 100_000, "not valid TOML: "),
        (b"a = " + b"{a=" * 100_000, "not valid TOML: "),
        (b"#" * 2_000_000, "it has more than 1048576 bytes"),
    ],
)
def test_an_odd_file_is_one_error(tmp_path, content, message):
    """Another encoding, deep nesting, or a size that no configuration has."""
    path = tmp_path / "metrics.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        Settings.load({}, path, {})


def test_a_byte_order_mark_is_ignored(tmp_path):
    """Editors on Windows write it."""
    path = tmp_path / "metrics.toml"
    path.write_bytes(b"\xef\xbb\xbf[metrics_framework]\r\nmax_series = 5\r\n")
    assert Settings.load({}, path, {}).max_series == 5


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300])
def test_an_impossible_path_is_one_error(name):
    """A null character, a lone surrogate, or a long name."""
    with pytest.raises(ConfigurationError, match="cannot read"):
        Settings.load({}, name, {})


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e400", "0"])
def test_no_interval_is_infinite_or_not_a_number(text):
    """From every source."""
    for load in (
        lambda: Settings.load({"collection_interval": float(text)}, None, {}),
        lambda: Settings.load({}, None, {"METRICS_FRAMEWORK_COLLECTION_INTERVAL": text}),
    ):
        with pytest.raises(ConfigurationError, match="is not a positive number"):
            load()


def test_deeply_nested_rules_are_one_error():
    """JSON that exceeds the recursion limit."""
    with pytest.raises(ConfigurationError, match="METRICS_FRAMEWORK_RULES="):
        Settings.load({}, None, {"METRICS_FRAMEWORK_RULES": "[" * 100_000})


def test_names_stand_for_configured_urls():
    """`prometheus` is a file or a Pushgateway, and `snapshot_writer` a folder, according to the keys."""
    assert Settings().urls() == NAMES
    pushed = "pushgateway+http://gateway:9091?job=nightly"
    config = {"prometheus_target": pushed, "snapshot_directory": "kept here"}
    assert Settings.parse(config).urls() == {"prometheus": pushed, "snapshot_writer": "snapshot:kept%20here"}
    settings = Settings.parse(
        {"prometheus_target": Path("/tmp/a b.prom"), "export_endpoints": ["prometheus"]}
    )
    assert settings.endpoints() == {"prometheus": "textfile:/tmp/a%20b.prom"}


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].at_start])
def test_keys_for_new_systems_are_rejected_later(key):
    """The error shows the call that accepts the key."""
    value = EXAMPLES[key][0]
    with pytest.raises(ConfigurationError) as caught:
        MetricsSystem().initialize_metrics({key: value, "retention_days": 3})
    assert f"MetricsSystem.from_config({{{key!r}: {value!r}}})" in str(caught.value)
    MetricsSystem.from_config({key: value}, environ={}).shutdown_metrics()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"names": "a", "drop": ["user"]}], r"rules: unknown key 'drop' of a rule.*'drop_tags'"),
        ([{"deny": True}], "rules: the rule .* has no pattern"),
        ([{"names": "a"}], "rules: the rule for names='a' does nothing"),
    ],
)
def test_the_error_of_an_invalid_rule_names_its_fault(rules, message):
    """Configured rules are checked like rules in code."""
    with pytest.raises(ConfigurationError, match=message):
        MetricsSystem.from_config({"rules": rules}, environ={})


def test_exceptions_are_configured_by_their_path():
    """A class of an application, of the standard library, or a builtin one; a mapping also takes classes."""
    config = {"ignore": ["LookupError", OSError], "failures": ["asyncio.CancelledError"]}
    metrics = MetricsSystem.from_config(config, environ={"METRICS_FRAMEWORK_IGNORE": "ValueError"})
    for error in (KeyError(), FileNotFoundError(), asyncio.CancelledError(), ValueError()):
        with suppress(BaseException), metrics.measure("work"):
            raise error
    assert metrics.tracker.get_failure_breakdown("work") == {"cancelled": 1, "ValueError": 1}


@pytest.mark.parametrize("key", ["ignore", "failures"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "no_such_module.NotFound",
            "cannot be imported: ModuleNotFoundError.*pass the path of a class, like",
        ),
        ("asyncio.NotFound", "cannot be imported"),
        ("NotFound", "cannot be imported"),
        ("asyncio.sleep", "is <function sleep.*which is not a class of exceptions"),
        ("int", "is <class 'int'>, which is not a class of exceptions"),
    ],
)
def test_the_error_of_an_exception_that_is_not_found_names_its_path(key, path, message):
    """It is raised when the system is created."""
    with pytest.raises(ConfigurationError, match=f"{key}: '{path}' {message}"):
        MetricsSystem.from_config({key: [path]}, environ={})


def test_configured_tags_and_rules_are_those_of_the_system():
    """Configured tags and rules apply to all records."""
    config = {"tags": {"service": "shop"}, "rules": [{"names": "noise", "deny": True}, Rule("a", rename="b")]}
    with MetricsSystem.from_config(config, environ={}) as metrics:
        metrics.collector.increment("a")
        metrics.collector.increment("noise")
        (found,) = metrics.aggregator.get_metrics_by_tag({})
    assert (found.name, found.tags) == ("b", {"service": "shop"})


# -- the environment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PURE", "COMPILED", "DEBUG_CORE"])
def test_variables_of_the_engine_are_not_keys(name):
    """The variables that choose or build the recording engine are not configuration."""
    MetricsSystem.from_config({}, environ={f"METRICS_FRAMEWORK_{name}": "1"}).shutdown_metrics()


@pytest.mark.parametrize("key", EXAMPLES)
def test_every_key_is_read_from_the_environment(key):
    """A variable has the same effect as the key in a mapping."""
    value, text = EXAMPLES[key]
    settings = Settings.load({}, None, {variable(key): text, "HOME": "/root", "metrics_framework_x": "1"})
    assert settings.given() == {key: value}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("collection_interval", "soon"),
        ("collection_interval", ""),
        ("collection_interval", "nan"),
        ("collection_interval", "-1"),
        ("max_custom", "1.5"),
        ("shutdown_on_exit", "maybe"),
        ("shutdown_on_exit", ""),
        ("latency_metric", ""),
        ("on_error", "ignore"),
        ("tags", "service"),
        ("tags", "=shop"),
        ("rules", "http.*"),
        ("rules", "3"),
    ],
)
def test_an_invalid_variable_is_quoted_with_its_value(key, text):
    """The error names the variable, its value, and the allowed values."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({}, None, {variable(key): text})
    assert str(caught.value) == f"{variable(key)}={text!r} is not {KEYS[key].kind.description}"


@given(st.sampled_from(sorted(KEYS)), st.text(max_size=20))
def test_any_text_is_a_value_or_one_clear_error(key, text):
    """Any text of a variable becomes a checked value or a `ConfigurationError`."""
    with suppress(ConfigurationError):
        settings = Settings.load({}, None, {variable(key): text})
        assert KEYS[key].kind.is_valid(settings.given()[key])


def test_variables_have_the_documented_prefix():
    """Variables of other programs are ignored."""
    assert VARIABLE_PREFIX == "METRICS_FRAMEWORK_"
    assert Settings.load({}, None, {"METRICS_COLLECTION_INTERVAL": "x"}) == Settings()


# -- a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "table"), [("app.toml", "metrics_framework"), ("pyproject.toml", "tool.metrics_framework")]
)
def test_every_key_is_read_from_a_file(tmp_path, name, table):
    """A table of a TOML file has the same effect as a mapping; a `pyproject.toml` has it in `[tool]`."""
    config = {key: value for key, (value, _) in EXAMPLES.items()}
    path = tmp_path / name
    path.write_text(toml(table, config) + "\n[tool.other]\nx = 1\n")
    assert Settings.load({}, path, {}).given() == config
    assert Settings.load({}, str(path), {}).given() == config


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "[metrics_framework]\ncollection_interval = 0", "collection_interval=0 is not a positive"),
        ("a.toml", "[metrics_framework]\ncolection_interval = 1", "Did you mean 'collection_interval'"),
        ("a.toml", "[metrics-framework]\ncollection_interval = 1", r"no table \[metrics_framework\]"),
        ("a.toml", "metrics_framework = 3", "3 is not a mapping"),
        ("a.toml", "[metrics_framework", "is not valid TOML"),
        ("pyproject.toml", "[metrics_framework]", r"no table \[tool.metrics_framework\]"),
        ("pyproject.toml", "tool = 3", r"no table \[tool.metrics_framework\]"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_it(tmp_path, name, content, message):
    """The error names the file and its fault."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        Settings.load({}, path, {})
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path, content):
    """A missing or binary file is not treated as an empty one."""
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"a\.toml"):
        Settings.load({}, path, {})


# -- which one wins ----------------------------------------------------------------------------------------


@given(st.sets(st.sampled_from(["file", "environment", "mapping"])))
def test_the_later_source_wins(tmp_path_factory, sources):
    """The mapping overrides the environment, which overrides the file, for each key."""
    path = tmp_path_factory.mktemp("settings") / "a.toml"
    path.write_text(toml("metrics_framework", {"max_custom": 1, "retention_days": 1}))
    settings = Settings.load(
        {"max_custom": 3} if "mapping" in sources else {"max_custom": None},
        path if "file" in sources else None,
        {variable("max_custom"): "2"} if "environment" in sources else {},
    )
    expected = [n for n, source in enumerate(["file", "environment", "mapping"], 1) if source in sources]
    assert settings.max_custom == (max(expected) if expected else None)
    assert settings.retention_days == (1 if "file" in sources else None)


def test_a_system_is_created_from_a_configuration(tmp_path, monkeypatch):
    """Budgets, thresholds, outputs and all other keys apply to the new system."""
    monkeypatch.setenv(variable("max_series_per_name"), "2")
    path = tmp_path / "app.toml"
    path.write_text(toml("metrics_framework", {"on_error": "log", "retention_days": 2, "max_custom": 1}))
    config = {
        "export_endpoints": ["snapshot_writer"],
        "snapshot_directory": tmp_path / "kept",
        "healthy_memory_percent": 0,
        "custom_metrics": ["orders"],
        "expire_after": 60,
    }
    with MetricsSystem.from_config(config, file=path) as system:
        system.collector.record_counter("orders", float("nan"))
        for user in range(9):
            system.collector.increment("orders", {"user": str(user)})
        health = system.get_system_health()
        assert (health["rejected"], health["healthy"]) == (1, False)
        assert health["overflowed"] > 0
        store = system.collector.store
        assert store.retention == timedelta(days=2)
        assert store is system.tracker.store
    (written,) = (tmp_path / "kept").glob("*.json")
    assert len(json.loads(written.read_text())["metrics"]["custom"]) == 1
