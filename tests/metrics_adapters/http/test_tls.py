"""The scrape server with TLS, client certificates and renewed certificates."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from metrics_adapters.http.tls import Certificates
from metrics_adapters.prometheus import serve
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError

TIMEOUT_SECONDS = 20.0


class Files:
    """The certificate files of a test.

    Args:
        folder: Where to write them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.cert, self.key = self.issue("server", "127.0.0.1")
        self.client = self.issue("client", "prometheus@example.org")

    def issue(self, name: str, identity: str, authority: trustme.CA | None = None) -> tuple[Path, Path]:
        """Return a new certificate and its key."""
        issued = (authority or self.authority).issue_cert(identity)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return cert, key

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """Return the TLS context of a client: what it trusts, and its certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if client is not None:
            context.load_cert_chain(*client)
        return context


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return certificates that no test changes."""
    return Files(tmp_path_factory.mktemp("certificates"))


def ask(server, context: ssl.SSLContext) -> int:
    """Return the status of a scrape on a new connection."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=TIMEOUT_SECONDS, context=context
    )
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def received(sock: socket.socket) -> bytes:
    """Return everything that is received until the connection ends in any way."""
    with suppress(ConnectionResetError):
        return sock.recv(1 << 16)
    return b""


def serial(server, files: Files) -> int:
    """Return the serial number of the certificate of a server."""
    context = files.context()
    with (
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
    ):
        return int(secured.getpeercert()["serialNumber"], 16)


def test_a_scrape_over_tls(made):
    """A client that does not trust the authority fails, and so does one without TLS."""
    with serve(0, metrics=MetricsSystem(), certfile=made.cert, keyfile=made.key) as server:
        assert server.url == f"https://127.0.0.1:{server.port}/metrics"
        assert ask(server, made.context()) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(server, ssl.create_default_context())
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in received(plain)
        assert ask(server, made.context()) == 200


def test_clients_need_a_certificate(made):
    """With ``client_cafile``, a client without a certificate of that authority is rejected."""
    options = {"certfile": made.cert, "keyfile": made.key, "client_cafile": made.ca}
    stranger = made.issue("stranger", "prometheus@example.org", trustme.CA())
    with serve(0, metrics=MetricsSystem(), **options) as server:
        assert ask(server, made.context(made.client)) == 200
        for context in (made.context(), made.context(stranger)):
            with pytest.raises(OSError, match=r"(?i)alert|reset|broken|EOF"):
                ask(server, context)
        assert ask(server, made.context(made.client)) == 200


@pytest.mark.slow
def test_a_missing_handshake_does_not_block_others(made):
    """A silent client is disconnected after the time-out for a request."""
    options = {"certfile": made.cert, "keyfile": made.key, "timeout": 0.5}
    with serve(0, metrics=MetricsSystem(), **options) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) for _ in range(5)]
        try:
            assert ask(server, made.context()) == 200
            for sock in silent:
                assert received(sock) == b""
        finally:
            for sock in silent:
                sock.close()


def test_closing_ends_handshakes(made):
    """A server whose clients are silent closes at once."""
    with serve(0, metrics=MetricsSystem(), certfile=made.cert, keyfile=made.key) as server:
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as silent:
            server.close()
            assert received(silent) == b""
        assert not [one for one in threading.enumerate() if one.name.startswith("metrics-server")]


def test_a_renewed_certificate_is_used_at_once(tmp_path):
    """For new connections, without a restart. Invalid files are logged, and the last valid ones are used."""
    files = Files(tmp_path)
    with serve(0, metrics=MetricsSystem(), certfile=files.cert, keyfile=files.key) as server:
        before = serial(server, files)
        assert serial(server, files) == before
        files.issue("server", "127.0.0.1")
        renewed = serial(server, files)
        assert renewed != before
        files.key.write_text("half written")
        assert serial(server, files) == renewed
        files.key.unlink()
        assert serial(server, files) == renewed
        files.issue("server", "127.0.0.1")
        assert serial(server, files) not in (before, renewed)


def test_invalid_files_are_logged_once_per_change(tmp_path, caplog):
    """Not for every connection."""
    files = Files(tmp_path)
    certificates = Certificates(files.cert, files.key)
    context = certificates.context()
    files.key.write_text("half written")
    assert [certificates.context() for _ in range(3)] == [context] * 3
    (record,) = caplog.records
    assert "new certificates cannot be used" in record.getMessage()


def test_invalid_certificates_are_an_error(made, tmp_path):
    """The message names the files and the reason. There is no password prompt."""
    nowhere, text = tmp_path / "nowhere.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    keys = [(nowhere, None), (text, None), (made.cert, None), (made.cert, nowhere)]
    for cert, key in (*keys, (made.cert, made.client[1])):
        with pytest.raises(InvalidInputError, match=f"certfile={cert}, keyfile={key} cannot be used"):
            Certificates(cert, key)
    with pytest.raises(InvalidInputError, match=f"client_cafile={nowhere} cannot be used"):
        Certificates(made.cert, made.key, nowhere)


def test_a_key_with_a_password_is_an_error(made, tmp_path):
    """There is no password prompt on a terminal."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidInputError, match="has a password"):
        Certificates(made.cert, locked)
