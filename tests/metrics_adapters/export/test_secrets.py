"""No message contains a secret of an output: mistyped URLs, servers that echo, and every output."""

from __future__ import annotations

import asyncio
import html
import http.server
import json
import logging
import re
import threading
import traceback
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import quote, quote_plus

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)

from metrics_adapters.grafana import GrafanaDashboard
from metrics_adapters.http.scrape import ScrapeRequest
from metrics_adapters.http_client import Address, Proxy
from metrics_adapters.otlp import OtlpExporter
from metrics_adapters.prometheus import Pushgateway, Textfile
from metrics_framework import MetricsSystem
from metrics_framework.config import Settings
from metrics_framework.errors import MetricsError, OutputError
from metrics_framework.export.endpoints import EndpointUrl, Secrets, make_endpoint

SCHEMES = {
    "influx+http": "db=app&rp={0}",
    "influx+https": "org={0}&bucket=b",
    "otlp+http": "temporality={0}",
    "otlp+grpc": "",
    "pushgateway+http": "job={0}&grouping={0}:a",
    "grafana+http": "title={0}",
    "webhook+http": "sig={0}&{0}=1",
    "statsd": "prefix={0}",
    "graphite": "prefix={0}&{0}",
    "file": "format={0}",
    "textfile": "{0}=1",
    "snapshot": "max_bytes={0}",
}
WORD = st.text("abcXYZ0189", min_size=5, max_size=9)
SECRET = st.builds("".join, st.tuples(WORD, st.text("-_.~!$'()*+;%&=?#@: \"\\<>é€😀", max_size=5), WORD))


def encodings_of(said: str) -> list[str]:
    """Return a text in the encodings in which a server may send it back."""
    texts = [said, json.dumps(said), html.escape(said), repr(said), quote(said), quote_plus(said)]
    return [
        *texts,
        b64encode(said.encode()).decode(),
        said.upper(),
        json.dumps(html.escape(quote(said))),
    ]


class Echo(http.server.BaseHTTPRequestHandler):
    """Sends back what it was sent, in many encodings."""

    def do_POST(self):
        """Reject the request, and quote it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        said = "\n".join([self.path, *(f"{name}: {value}" for name, value in self.headers.items())])
        texts = encodings_of(said)
        way = self.server.way % (len(texts) + 2)
        self.server.way += 1
        body = (texts[way] if way < len(texts) else "").encode()
        if way == len(texts):
            self.wfile.write(f"{said!r} is not HTTP\r\n\r\n".encode())
            return
        self.send_response(400 if way < len(texts) else 307, quote(said))
        if way == len(texts) + 1:
            self.send_header("Location", f"http://{quote(said)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_DELETE = do_POST

    def log_message(self, *_):
        """Log nothing."""


class GrpcEcho(MetricsServiceServicer):
    """Sends back the metadata that it was sent, in many encodings."""

    def __init__(self) -> None:
        self.way = 0

    def Export(self, request, context):
        """Reject the whole message or some of its points, and quote the metadata."""
        said = "\n".join(f"{name}: {value}" for name, value in context.invocation_metadata())
        texts = encodings_of(said)
        way, self.way = self.way, self.way + 1
        if way % 2:
            context.set_trailing_metadata([("x-said", quote(said))])
            context.abort(CODES[way % len(CODES)], texts[way % len(texts)])
        response = ExportMetricsServiceResponse()
        response.partial_success.rejected_data_points = 1
        response.partial_success.error_message = texts[way % len(texts)]
        return response


CODES = [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT]


@pytest.fixture(scope="module")
def grpc_port():
    """Return the port of an echoing gRPC server."""
    server = grpc.server(ThreadPoolExecutor(2))
    add_MetricsServiceServicer_to_server(GrpcEcho(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.fixture(scope="module")
def port():
    """Return the port of an echoing server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.way = 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def said_by(error: BaseException) -> str:
    """Return all that an error says, with those behind it."""
    said, seen = "".join(traceback.format_exception_only(error)), set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            said += f"\n{one}\n{one!r}"
            waiting += [one.__cause__, one.__context__]
    return said


def forms_of(secret: str) -> set[str]:
    """Return a secret in its encodings."""
    content = secret.encode()
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        html.escape(secret),
        b64encode(content).decode().rstrip("="),
        b64encode(content).decode(),
    }


def check(said: str, *secrets: str) -> None:
    """Check that a text contains none of the secrets."""
    for secret in secrets:
        assert not [form for form in forms_of(secret) if form in said], said


def mistyped(url: str) -> list[str]:
    """Return a URL with typical mistakes."""
    scheme, _, rest = url.partition("://")
    return [
        url,
        f"{scheme}:/{rest}",
        f"{scheme}//{rest}",
        f"{scheme}:{rest}",
        f"{scheme}{rest}",
        f"{scheme}:///{rest}",
        f"{scheme}:\\\\{rest}",
        f"{scheme[:-1]}://{rest}",
        f"x{scheme}://{rest}",
        f"//{rest}",
        rest,
        rest.rpartition("@")[0],
        f" {url}",
        f"{url} ",
        f"{url}@",
        f"{url}#x",
        url.replace("@", "/", 1),
        url.replace("@", "#", 1),
        url.replace("@", "?", 1),
        url.replace("?", "&"),
        url.replace("?", "@"),
        url.replace("=", "", 1),
        url.replace(":", ";"),
        url.replace("127.0.0.1", ""),
        url.replace("127.0.0.1:", "127.0.0.1"),
        url.upper(),
        f"{url},{url}",
        f"['{url}']",
    ]


def messages_about(url: str, secret: str) -> str:
    """Return all that the library says of a URL in each place where one may be given."""
    said = ""
    plain = re.sub(r"^\w+\+", "", url)
    attempts = [
        lambda: EndpointUrl.parse(url),
        lambda: make_endpoint(url),
        lambda: Settings.load({"export_endpoints": [url]}, None, {}),
        lambda: Settings.load({"export_endpoints": url}, None, {}),
        lambda: Settings.load({"export_endpoints": ["statsd://h", url]}, None, {}),
        lambda: Settings.load({"prometheus_target": url, "export_endpoints": ["prometheus"]}, None, {}),
        lambda: Settings.load({}, None, {"METRICS_FRAMEWORK_EXPORT_ENDPOINTS": url}),
        lambda: Settings.load({}, None, {"METRICS_FRAMEWORK_PROMETHEUS_TARGET": url}),
        lambda: Settings.load(url, None, {}),
        lambda: MetricsSystem(outputs=url),
        lambda: MetricsSystem(outputs=[url]),
        lambda: MetricsSystem().aggregator.export_metrics(url),
        lambda: Pushgateway(plain, "job"),
        lambda: Pushgateway(plain, "job", auth=(secret, secret)),
        lambda: Pushgateway(plain, "job", headers={"X-Key": secret}),
        lambda: OtlpExporter(plain, headers={"x-key": secret}),
        lambda: GrafanaDashboard(plain),
        lambda: GrafanaDashboard(plain, token=secret),
        lambda: Textfile(plain),
    ]
    for attempt in attempts:
        try:
            made = attempt()
        except (MetricsError, TypeError) as error:
            said += said_by(error)
        else:
            said += repr(made) + str(getattr(made, "name", ""))
    return said


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_message_about_a_url_contains_a_part_of_it(data):
    """Well-formed or mistyped, in the configuration, in a variable, or as an argument.

    Only a text that reads as the host is shown: messages must tell two servers apart.
    """
    scheme = data.draw(st.sampled_from(sorted(SCHEMES)))
    secrets = [data.draw(SECRET) for _ in range(4)]
    user, password, path, value = (data.draw(st.sampled_from([quote(one, safe=""), one])) for one in secrets)
    query = SCHEMES[scheme].format(value)
    url = f"{scheme}://{user}:{password}@127.0.0.1:1/{path}?{query}"
    for text in {url, *data.draw(st.lists(st.sampled_from(mistyped(url)), min_size=3, max_size=3))}:
        with suppress(MetricsError):
            parsed = EndpointUrl.parse(text)
            is_shown = any(secret.casefold() in parsed.host.casefold() for secret in secrets)
            if is_shown or (parsed.scheme in ("file", "textfile", "snapshot") and not parsed.host):
                continue
        check(messages_about(text, secrets[1]), *secrets)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme", ["influx+http", "otlp+http", "pushgateway+http", "grafana+http", "webhook+http"]
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secrets=st.lists(SECRET, min_size=4, max_size=4))
def test_no_message_contains_a_secret_that_a_server_echoes(port, caplog, scheme, secrets):
    """In its body, its reason phrase, a redirect, or instead of a response, and in many encodings."""
    secrets[0] = "" if scheme == "grafana+http" else secrets[0].replace(":", ".")
    if scheme == "grafana+http":  # its token is ASCII without spaces
        secrets[1] = secrets[1].encode("ascii", "ignore").decode().replace(" ", "")
    user, password, path, value = (quote(one, safe="") for one in secrets)
    query = SCHEMES[scheme].format(value) if scheme not in ("otlp+http", "pushgateway+http") else ""
    query = f"job={value}" if scheme == "pushgateway+http" else query
    url = f"{scheme}://{user}:{password}@127.0.0.1:{port}/{path}?{query}".rstrip("?")
    system = MetricsSystem()
    system.collector.increment("orders")
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        caplog.clear()
        assert asyncio.run(system.export_metrics_async([url])) == {url: False}
        said = f"{caplog.text}{system.export_failures}"
        assert f"127.0.0.1:{port}" in said
        check(said, *filter(None, secrets), f"{secrets[0]}:{secrets[1]}")
    with suppress(MetricsError):
        make_endpoint(url)[1].export(system)


ASCII_SECRET = SECRET.map(lambda text: text.encode("ascii", "ignore").decode().replace(" ", ""))


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secrets=st.lists(ASCII_SECRET, min_size=3, max_size=3))
def test_no_message_contains_a_secret_that_a_grpc_server_echoes(grpc_port, caplog, secrets):
    """In the details of its status, its metadata, or the reason why it rejects some of the points."""
    user, password, value = secrets
    user = user.replace(":", ".")
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    caplog.set_level(logging.DEBUG)
    address = f"127.0.0.1:{grpc_port}"
    for credentials in (f"{quote(user, safe='')}:{quote(password, safe='')}", f":{quote(password, safe='')}"):
        url = f"otlp+grpc://{credentials}@{address}"
        for _ in range(3):
            caplog.clear()
            assert asyncio.run(metrics.export_metrics_async([url])) == {url: False}
            said = f"{caplog.text}{metrics.export_failures}"
            assert address in said
            check(said, *([user, f"{user}:{password}"] if credentials[0] != ":" else []), password)
    exporter = OtlpExporter(f"http://{address}", protocol="grpc", headers={"x-key": value})
    for _ in range(3):
        with pytest.raises(OutputError) as caught:
            exporter.export(metrics)
        assert "***" in str(caught.value)
        check(f"{said_by(caught.value)}{exporter!r}{caplog.text}", value)
    exporter.close()


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=ASCII_SECRET)
def test_no_error_of_an_output_contains_the_value_of_a_header(port, secret):
    """Whether it was given as a header, as credentials or as a token; also not in the errors behind it."""
    metrics = MetricsSystem()
    metrics.collector.increment("orders")
    url = f"http://127.0.0.1:{port}"
    gateways = [
        Pushgateway(url, "j", headers={"X-Api-Key": secret}),
        Pushgateway(url, "j", auth=("me", secret)),
        Pushgateway(f"{url}/{quote(secret, safe='')}", "j"),
        OtlpExporter(url, headers={"authorization": f"Bearer {secret}"}),
        GrafanaDashboard(url, token=secret),
    ]
    for output in gateways:
        with pytest.raises(OutputError) as caught:
            output.export(metrics)
        check(f"{said_by(caught.value)}{output!r}", secret, f"me:{secret}")


def test_no_repr_contains_credentials():
    """Also those of objects inside the library, which a debugger or an error may show."""
    secret = "Basic bWU6aHVudGVyMg=="
    proxy = Proxy("proxy", 3128, {"Proxy-Authorization": secret})
    address = Address("http", "host", None, f"/{secret}", proxy=proxy, secrets=Secrets([secret]))
    for one in (proxy, address, ScrapeRequest("GET", secret, query=secret), Secrets([secret])):
        assert secret not in repr(one)


@given(SECRET, st.text(max_size=30), st.text(max_size=30), st.integers(0, 5))
def test_a_secret_is_found_in_every_encoding(secret, before, after, way):
    """Anywhere in a text, and the rest of the text is kept if it resembles no secret."""
    encode = [str, json.dumps, html.escape, repr, lambda text: quote(text, safe=""), quote_plus][way]
    redacted = Secrets([secret]).redact(encode(f"{before}{secret}{after}"))
    assert "***" in redacted
    assert secret not in redacted
    assert encode(secret).strip("'\"") not in redacted


def test_only_secrets_are_redacted():
    """A text stays readable: short secrets are not found inside words."""
    secrets = Secrets(["j", "db1", "tok/en=x"])
    assert secrets.redact("just a job: j, db12, DB1 and token") == "just a job: ***, db12, *** and token"
