"""The files of the live page, read once from the installed package, and their compressed copies."""

from __future__ import annotations

import gzip
import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import NamedTuple, Self

INDEX, LOGIN, STYLE = "index.html", "login.html", "page.css"

_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_STYLE_LINK = re.compile(rb'<link rel="stylesheet" href="assets/page\.css"\s*/?>')
_STYLE_ELEMENT = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
_ERROR_PLACE = re.compile(rb"<!--\s*error\s*-->")


class PageFile(NamedTuple):
    """A file that the page consists of.

    Attributes:
        content: The content.
        compressed: The same, compressed with gzip.
        content_type: The value of the ``Content-Type`` header.
        digest: Identifies the content.
    """

    content: bytes
    compressed: bytes
    content_type: str
    digest: str

    @classmethod
    def of(cls, name: str, content: bytes, compressed: bytes | None = None) -> Self:
        """Return a file.

        Args:
            name: Its name, whose extension determines the type.
            content: The content.
            compressed: The compressed content, if it is known.
        """
        return cls(
            content,
            gzip.compress(content, mtime=0) if compressed is None else compressed,
            _CONTENT_TYPES[name.rpartition(".")[2]],
            hashlib.sha256(content).hexdigest()[:32],
        )


@cache
def page_files() -> Mapping[str, PageFile]:
    """Return the files by their names: the two documents, the style sheet and all scripts.

    URLs are looked up in this table, so that no part of a URL is ever a path of the disk.
    """
    folder = files("metrics_adapters.page") / "assets"
    scripts = [each.name for each in folder.iterdir() if each.name.endswith(".js")]
    names = (INDEX, LOGIN, STYLE, *sorted(scripts))
    return {name: PageFile.of(name, (folder / name).read_bytes()) for name in names}


def page_document(*, has_login: bool) -> PageFile:
    """Return the document of the page.

    Args:
        has_login: Whether browsers log in. Otherwise, the button to log out stays hidden.
    """
    document = page_files()[INDEX]
    if not has_login:
        return document
    return PageFile.of(INDEX, document.content.replace(b'action="logout" hidden', b'action="logout"', 1))


class LoginForm:
    """The document with the login form.

    It contains the style sheet, so that it looks right though nothing else is readable without credentials.
    The content security policy allows exactly this one by its hash.

    Attributes:
        style_sources: The sources for ``style-src`` of its content security policy.
    """

    def __init__(self) -> None:
        table = page_files()
        style = b"<style>" + table[STYLE].content + b"</style>"
        self._document = _STYLE_LINK.sub(lambda _: style, table[LOGIN].content)
        self.style_sources = tuple(
            f"'sha256-{b64encode(hashlib.sha256(each).digest()).decode()}'"
            for each in _STYLE_ELEMENT.findall(self._document)
        )

    def document(self, error: str = "", folder: str = "") -> bytes:
        """Return the document.

        Args:
            error: Why the last login failed.
            folder: The folder of ``login``, relative to the URL of the document.
        """
        document = _ERROR_PLACE.sub(lambda _: escape(error).encode(), self._document, 1)
        return document.replace(b'action="login"', f'action="{escape(folder)}login"'.encode(), 1)
