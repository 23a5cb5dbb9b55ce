"""URLs of endpoints are parsed or refused, and no error contains a secret."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.errors import ConfigurationError
from metrics_framework.export.endpoints import (
    BUILT_IN,
    ENTRY_POINT_GROUP,
    NAMES,
    EndpointUrl,
    make_endpoint,
)
from metrics_framework.export.outputs import name_of
from metrics_framework.plugins import load_from

URLS = {
    "file": "file:///var/metrics.json",
    "grafana": "grafana:///var/dashboard.json?title=Shop",
    "grafana+http": "grafana+http://:token@grafana:3000",
    "grafana+https": "grafana+https://:token@grafana/base?datasource=prom",
    "graphite": "graphite://carbon",
    "influx+http": "influx+http://influx:8086?db=app",
    "influx+https": "influx+https://:token@influx?org=me&bucket=app",
    "otlp+http": "otlp+http://me:word@collector:4318",
    "otlp+https": "otlp+https://:token@collector/base/v1/metrics?temporality=delta",
    "otlp+grpc": "otlp+grpc://collector:4317?compression=none",
    "otlp+grpcs": "otlp+grpcs://[::1]:4317",
    "pushgateway+http": "pushgateway+http://gateway:9091/base?job=nightly",
    "pushgateway+https": "pushgateway+https://me:word@gateway?job=nightly&grouping=shard:3,zone:a",
    "snapshot": "snapshot:///var/runs",
    "statsd": "statsd://localhost:8125?tags=datadog",
    "textfile": "textfile:///var/app.prom",
    "webhook+http": "webhook+http://localhost:80/hook",
    "webhook+https": "webhook+https://hooks/services/T0/secret?sig=abcd",
}


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a distribution that provides the endpoint `acme`, as pip would."""
    (tmp_path / "acme_endpoint.py").write_text(
        "class Endpoint:\n"
        "    def __init__(self, url):\n"
        "        self.name, self.url = str(url), url\n"
        "    def export(self, system):\n"
        "        raise RuntimeError(f'{self.url.password} is wrong')\n"
    )
    information = tmp_path / "acme_endpoint-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-endpoint\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\nacme+http = acme_endpoint:Endpoint\nacme = acme_endpoint:Endpoint\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("acme_endpoint", None)


@pytest.mark.smoke
@pytest.mark.parametrize("scheme", BUILT_IN)
def test_every_scheme_has_an_endpoint(scheme):
    """Each row of the table is a public class, whose endpoints are outputs with names without secrets."""
    factory = load_from(BUILT_IN, ENTRY_POINT_GROUP, scheme)
    assert inspect.isclass(factory)
    assert factory.__name__.endswith("Endpoint")
    url, output = make_endpoint(URLS[scheme])
    assert isinstance(output, factory)
    assert name_of(output) == str(url)
    assert not {"token", "word", "secret", "abcd"} & set(str(url).replace("/", " ").replace("=", " ").split())


def test_every_name_stands_for_a_url(tmp_path, monkeypatch):
    """A name has a default URL."""
    monkeypatch.chdir(tmp_path)
    for name, url in NAMES.items():
        assert make_endpoint(name)[0] == make_endpoint(url)[0]


@pytest.mark.parametrize("name", ["newrelic", "newrelic://host", "http://host", "statds://host", ""])
def test_an_unknown_endpoint_is_an_error_that_lists_all(name, third_party):
    """The error lists built-in and third-party endpoints."""
    with pytest.raises(ConfigurationError) as caught:
        make_endpoint(name)
    if name:
        assert all(known in str(caught.value) for known in (*NAMES, *BUILT_IN, "acme+http"))
    assert ("Did you mean 'statsd'" in str(caught.value)) == (name == "statds://host")


def test_a_third_party_plugs_in_by_an_entry_point(third_party):
    """A scheme or name that is not in the table is created by the package that declares it."""
    url, output = make_endpoint("acme+http://me:word@host/path")
    assert type(output).__module__ == "acme_endpoint"
    assert (output.url, output.name) == (url, "acme+http://host")
    assert make_endpoint("acme")[1].name == "acme"
    with pytest.raises(ConfigurationError, match=r"its query has an unknown option\. It has no options"):
        make_endpoint("acme+http://host?x=1")


def test_a_url_is_parsed():
    """All parts are decoded, and `str` and `repr` contain neither user nor password."""
    url = EndpointUrl.parse("Influx+HTTP://m%40e:w%2Ford@[::1]:8086/a%20b?db=a%26b")
    assert (url.scheme, url.host, url.port, url.path) == ("influx+http", "::1", 8086, "/a b")
    assert (url.username, url.password, dict(url.query)) == ("m@e", "w/ord", {"db": "a&b"})
    assert str(url) == "influx+http://[::1]:8086"
    for shown in (str(url), repr(url)):
        assert not any(secret in shown for secret in ("m@e", "m%40e", "w/ord", "w%2Ford"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("influx+http://h?db=x&wird=word", "its query has an unknown option"),
        (
            "influx+http://h?db=x&token=word",
            r"an unknown option.* Write a secret before the host, like .*//:TOKEN@host",
        ),
        ("influx+http://h?db=x&btch=1", "Did you mean 'batch'"),
        ("influx+http://h?db=x&batch=word", "the option batch is not a whole number from 1 to 1000000"),
        ("influx+http://h?db=x&db=y", "its query has an option twice"),
        ("influx+http://h?db=x&gzip=word", "the option gzip is not yes or no"),
        ("influx+http://h?db=x&timeout=-1", "timeout is not a positive number of seconds"),
        ("influx+http://h?word", "its host, port or query is malformed"),
        ("statsd://h:99999", "endpoint statsd: its host, port .* a port is a number from 0 to 65535"),
        ("influx+http://h:word?db=x", "its host, port or query is malformed"),
        ("influx+http://me:a/word@h?db=x", "write %2F for a slash in a password|is malformed"),
        ("influx+http:me:word@h?db=x", "write // before a host"),
        ("influx+http://me:a word@h?db=x", "a space or a control character"),
        ("influx+http://me:#word@h?db=x", "write %23 for it in a password|is malformed"),
        ("influx+http://me:word@h", "pass db=… for version 1 of InfluxDB, or org=… and bucket=…"),
        ("influx+http://me:word@h?db=x&bucket=y", "pass db=…"),
        ("influx+http://?db=x", "has no host"),
        ("influx+http://h?db=x&cafile=/nowhere", "cafile requires https"),
        ("influx+https://h?db=x&cafile=/nowhere", "cafile cannot be used"),
        ("statsd", "like statsd://localhost:8125"),
        ("statsd://h/path", "pass a host and a port only"),
        ("statsd://h?tags=word", "the option tags is not one of none, datadog, influx"),
        ("graphite://me:word@h", "pass a host and a port only"),
        ("pushgateway+http://h", "needs the option job, like pushgateway"),
        ("pushgateway+http://h?job=a&grouping=b", "grouping is not a list of labels, such as shard:3,zone:a"),
        (
            "pushgateway+http://h?job=a&grouping=__b:c",
            "grouping is not a list of labels, such as shard:3,zone:a",
        ),
        ("pushgateway+http://:word@h?job=a", "a password needs a user"),
        ("file:///var/metrics.txt", r"does not end in .json, .jsonl, .csv"),
        ("file://var/metrics.json", "write a path after three slashes"),
        ("file://", "it has no path"),
        ("textfile:///var/app.txt", "does not end in .prom"),
        ("snapshot://", "it has no path"),
        ("webhook+https://me:word@h?header=X-Key", "header= needs a password without a user"),
        ("webhook+https://:word@h?header=a b", "a space or a control character"),
        ("webhook+https://:word@h?header=a%20b", "not a header name"),
        ("webhook+https://:word%0A@h", "the token must be one line of Latin-1 text"),
        ("otlp+http:h:4318", "has no host"),
        ("otlp+grpc://h/word", "it has a path, which gRPC does not use"),
        ("otlp+http://:word%0A@h", "the token must be one line of Latin-1 text"),
        ("1://h", "does not begin with a scheme"),
    ],
)
def test_the_error_of_a_wrong_url_contains_no_secret(url, message):
    """The error names the endpoint and the rule."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_endpoint(url)
    assert "word" not in str(caught.value).replace("a password", "")
    assert str(caught.value).count("endpoint ") <= 1


@settings(max_examples=30)
@given(st.text(max_size=30), st.sampled_from(sorted(BUILT_IN)))
def test_any_text_is_an_endpoint_or_a_configuration_error(text, scheme):
    """No text raises any other exception."""
    for candidate in (
        text,
        f"{scheme}:{text}",
        f"{scheme}://{text}",
        f"{scheme}://h/{text}",
        f"{scheme}://h?{text}",
    ):
        with suppress(ConfigurationError):
            make_endpoint(candidate)


SECRET = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=8, max_size=20)


@given(SECRET, SECRET)
def test_a_secret_is_not_shown_and_is_redacted(user, password):
    """Any password is absent from the text of the URL, and removed from texts that quote it."""
    from urllib.parse import quote

    text = f"influx+http://{quote(user, safe='')}:{quote(password, safe='')}@host/path"
    url = EndpointUrl.parse(text)
    assert (url.username, url.password) == (user, password)
    for shown in (str(url), repr(url), url.redacted(f"no {text}"), url.redacted(f"refused: {password}!")):
        assert password not in shown
        assert quote(password, safe="") not in shown
