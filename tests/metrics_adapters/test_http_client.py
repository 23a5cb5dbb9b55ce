"""Exchanges end in time whatever the other side does, and the documentation has every option."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest
import trustme

from metrics_adapters.http_client import Address, Proxy, exchange
from metrics_framework.export.endpoints import BUILT_IN, ENTRY_POINT_GROUP
from metrics_framework.plugins import load_from
from tests.metrics_adapters.export.failing_servers import (
    FailingServer,
    close,
    say_nothing,
    send_endless_body,
    send_garbage,
    trickle_headers,
)

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "exporting.md"
PATIENCE_SECONDS = 60.0
"""More than any delay of a busy machine. A failing server goes on for longer."""


def shown(default: object) -> str:
    """Return a default in the format of the table."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if default is None:
        return "-"
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_documentation_lists_every_option():
    """The table of `docs/exporting.md` matches the declarations of the options."""
    factories = {}
    for scheme in BUILT_IN:
        factories.setdefault(load_from(BUILT_IN, ENTRY_POINT_GROUP, scheme), scheme)
    rows = [
        f"| `{scheme}` | `{name}` | {option.description} | {shown(option.default)} | {option.meaning} |"
        for factory, scheme in factories.items()
        for name, option in getattr(factory, "options", {}).items()
    ]
    text = DOCUMENTATION.read_text()
    table = text.partition("## Options")[2].partition("## Secrets")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows
    assert all(f"`{scheme}:" in text or f"`{scheme}s:" in text for scheme in factories.values())


def test_a_proxy_tunnels_to_an_https_server():
    """The proxy gets the host and its own credentials, and the server an encrypted request."""
    authority, asked = trustme.CA(), []
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("shop.invalid").configure_cert(server_side)
    authority.configure_trust(client_side)

    def tunnel(connection: socket.socket) -> None:
        asked.append(connection.recv(1_000))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with server_side.wrap_socket(connection, server_side=True) as inside:
            asked.append(b"")
            while not asked[1].endswith(b"body"):
                asked[1] += inside.recv(1_000)
            inside.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = FailingServer(tunnel)
    proxy = Proxy("127.0.0.1", server.port, {"Proxy-Authorization": "Basic x"})
    address = Address("https", "shop.invalid", None, "/metrics", client_side, proxy)
    response = exchange(address, "POST", b"body", {}, 10.0, max_body=100)
    server.close()
    assert (response.status, response.body) == (200, b"ok")
    assert asked[0].startswith(b"CONNECT shop.invalid:443 HTTP/1.1\r\nHost: shop.invalid:443\r\nProxy-A")
    assert asked[1].startswith(b"POST /metrics HTTP/1.1\r\nHost: shop.invalid\r\n")
    assert b"Proxy" not in asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("behave", [trickle_headers, say_nothing, send_garbage, close])
def test_a_proxy_that_fails_ends_the_exchange_in_time(behave):
    """The deadline covers the tunnel, too."""
    server = FailingServer(behave)
    address = Address("https", "shop.invalid", None, "/", None, Proxy("127.0.0.1", server.port, {}))
    begin = time.monotonic()
    with pytest.raises(OSError, match=r"no answer within 0.5 seconds|not HTTP|closed|reset"):
        exchange(address, "POST", b"body", {}, 0.5)
    assert time.monotonic() - begin < PATIENCE_SECONDS
    server.close()


@pytest.mark.slow
def test_a_slow_tls_handshake_ends_in_time():
    """A server that does not finish the handshake is given up at the deadline."""
    server = FailingServer(say_nothing)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0.3 seconds"):
        exchange(Address("https", "127.0.0.1", server.port, "/"), "POST", b"body", {}, 0.3)
    assert time.monotonic() - begin < PATIENCE_SECONDS
    server.close()


def test_an_endless_response_is_read_up_to_its_limit():
    """Neither a success without end nor an error without end fills the memory."""
    server = FailingServer(send_endless_body)
    address = Address("http", "127.0.0.1", server.port, "/")
    assert len(exchange(address, "POST", b"body", {}, 10.0, max_body=100_000).body) == 100_000
    assert exchange(address, "POST", b"body", {}, 10.0).body == b""
    server.close()
