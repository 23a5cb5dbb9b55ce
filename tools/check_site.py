"""Fails if the built documentation has a dead link, a page that no link leads to, or needs another site.

``python tools/check_site.py FOLDER``

It checks the links within the site, with their anchors. For links to other sites there is ``sphinx-build -b
linkcheck``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

START = "index.html"


class SitePage(HTMLParser):
    """The anchors and links of a page.

    Attributes:
        anchors: What a link to this page can name after ``#``.
        links: The targets of its links.
        parts: What a browser loads with the page: styles, scripts and pictures.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.parts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add what a tag names or leads to."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in {"href", "src"} and value:
                (self.links if tag == "a" else self.parts).append(value)


def find_faults(folder: Path) -> Iterator[str]:
    """Yield a sentence for each fault of the site in a folder."""
    pages = {path.resolve(): SitePage(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    linked: dict[Path, set[Path]] = {path: set() for path in pages}
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link in page.links + page.parts:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.parts and url.scheme != "data":
                    yield f"{name} loads {link} from another site"
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                yield f"{name} links to {link}, which does not exist"
            elif target in pages:
                linked[path].add(target)
                if url.fragment and unquote(url.fragment) not in pages[target].anchors:
                    yield f"{name} links to {link}, which has no such anchor"
    reached: set[Path] = set()
    waiting = [(folder / START).resolve()]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += linked.get(path, ())
    for path in sorted(pages.keys() - reached):
        yield f"{path.relative_to(folder.resolve())} cannot be reached from {START}"


def main() -> None:
    """Print each fault, and exit with 1 if there are any."""
    faults = list(find_faults(Path(sys.argv[1])))
    for fault in faults:
        print(fault)  # noqa: T201
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
