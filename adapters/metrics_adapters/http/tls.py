"""TLS certificates from files, which are reloaded when they are renewed."""

from __future__ import annotations

import ssl
from os import PathLike
from pathlib import Path

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation

StrPath = str | PathLike[str]


class Certificates:
    """Provides the TLS context of a server, and reloads it when one of the files changes.

    If the changed files are invalid, the error is logged and the previous context stays in use.

    Args:
        certfile: The certificate of the server and its chain, in PEM.
        keyfile: The private key, without a password; by default it is in ``certfile``.
        client_cafile: The certificate authorities of the client certificates. By default clients need none.

    Raises:
        InvalidInputError: If the files are invalid.
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
            raise InvalidInputError(
                f"{files} cannot be used: {error}; pass a certificate and its private key in PEM"
            ) from error
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
    # Without this, OpenSSL would prompt for the password on the terminal.
    raise InvalidInputError("the private key has a password: pass a key without a password")
