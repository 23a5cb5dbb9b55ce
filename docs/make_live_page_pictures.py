"""Takes the screenshots of the live page for the README and `docs/web.md`: the shop of `examples/live.py`.

``python docs/make_live_page_pictures.py`` takes four minutes. It needs the extras ``web`` and ``compare``,
playwright, and Chromium on ``PATH``.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
TRAFFIC_SECONDS = 210.0
"""The shop is slow for the last quarter of each minute, which should be seen more than once."""

DRAWING_SECONDS = 10.0
PICTURES: dict[str, tuple[Literal["light", "dark"], str, int]] = {
    "live-page.png": ("light", "performance", 980),
    "live-page-dark.png": ("dark", "overview", 640),
}
"""Name of each picture to its theme, its tab and its height in pixels."""


def main() -> None:
    """Open the shop, wait for traffic, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "examples" / "live.py"), "--port", "0", "--snapshots", folder]
        shop = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert shop.stdout is not None
            url = shop.stdout.readline().split()[4]
            time.sleep(TRAFFIC_SECONDS)
            take_pictures(url)
        finally:
            shop.send_signal(signal.SIGINT)
            shop.wait(60)


def take_pictures(url: str) -> None:
    """Open the page once for each picture."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (theme, tab, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme=theme)
            page.goto(f"{url}#tab={tab}&range=300")
            page.wait_for_timeout(1000 * DRAWING_SECONDS)
            page.screenshot(path=IMAGES / name)
        browser.close()


if __name__ == "__main__":
    main()
