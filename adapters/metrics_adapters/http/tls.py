"""Certificates from files, also where these are renewed while a server runs."""

from __future__ import annotations

import ssl
from os import PathLike
from pathlib import Path

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation

StrPath = str | PathLike[str]


class Certificates:
    """Makes the TLS context of a server, anew whenever one of its files has changed.

    Files that cannot be used then are logged, and the last good ones stay in use.

    Args:
        certfile: The server's certificate and its chain, in PEM.
        keyfile: Its key, without a password; by default it is in ``certfile`` too.
        client_cafile: Who signs the certificates that clients have to have; none are asked for by default.

    Raises:
        InvalidInputError: If the files cannot be used.
    """

    def __init__(
        self, certfile: StrPath, keyfile: StrPath | None = None, client_cafile: StrPath | None = None
    ) -> None:
        self._certfile, self._keyfile, self._client_cafile = certfile, keyfile, client_cafile
        self._files = [Path(file) for file in (certfile, keyfile, client_cafile) if file is not None]
        self._isolation = Isolation()
        self._seen = self._stamps()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            event = "new certificates cannot be used; the old ones are"
            self._context = self._isolation.call(event, self._load) or self._context
        return self._context

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certfile, self._keyfile, password=_refuse_password)
        except OSError as error:  # ssl.SSLError is one
            files = f"certfile={self._certfile!s}, keyfile={self._keyfile!s}"
            raise InvalidInputError(f"{files} cannot be used: {error}") from error
        if self._client_cafile is not None:
            try:
                context.load_verify_locations(self._client_cafile)
            except OSError as error:
                raise InvalidInputError(
                    f"client_cafile={self._client_cafile!s} cannot be used: {error}"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _stamps(self) -> list[tuple[int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _refuse_password() -> str:
    # Without this, OpenSSL would ask for one on the terminal, and wait.
    raise InvalidInputError("the key has a password, which nobody can type here; use one without")
