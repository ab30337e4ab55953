"""Pages in a headless Chromium, as a reader sees them. Only tests with the marker ``browser`` use it.

with open_page(path.as_uri(), width=390, scheme="dark") as visit:
    visit.page.click("text=Plan")
visit.check()  # nothing went wrong, nothing was asked of the network, and nothing is wider than the window
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WIDTHS = {1280: 900, 390: 844}  # of a desk and of a phone, with the height of the window
SCHEMES = ("light", "dark")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what a page asks of the network is not answered
)
_INSIDE = ("file", "data", "blob", "about")  # schemes of addresses that need no network


@dataclass
class Visit:
    """A page that is open.

    Attributes:
        page: Playwright's page.
        errors: What the console reports as an error, and exceptions of scripts.
        outside: Addresses of requests that would leave this machine.
        overflow: By how many pixels the page was wider than its window when the visit ended.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    overflow: int = 0

    def note_request(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in _INSIDE and parts.hostname != "127.0.0.1":
            self.outside.append(address)

    def measure(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def check(self) -> None:
        """Assert that nothing went wrong, that nothing was asked of the network, and that the page fits its window."""
        assert self.outside == [], "the page asks the network"
        assert self.errors == [], "the console has errors"
        assert self.overflow <= 0, f"the page is {self.overflow} pixels wider than its window"


def find_chromium() -> str:
    """Return the path of Chromium: $CHROMIUM, else /usr/bin/chromium, else what the PATH has."""
    named = os.environ.get("CHROMIUM")
    places = [named] if named else ["/usr/bin/chromium", *map(shutil.which, ("chromium", "chromium-browser"))]
    found = next((place for place in places if place and Path(place).exists()), None)
    assert found is not None, (
        f"no Chromium at {named or '/usr/bin/chromium'}: apt-get install chromium, or name another by "
        "CHROMIUM=/path/to/chromium make test-browser"
    )
    return found


@contextmanager
def launch() -> Iterator[Any]:
    """Start a browser, which takes seconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    address: str, *, width: int = 1280, scheme: str = "light", wait: str = "load", browser: Any = None
) -> Iterator[Visit]:
    """Open a page in a window of its own.

    Args:
        address: Such as ``path.as_uri()`` or ``http://127.0.0.1:7860``.
        width: Of the window, in pixels: 1280 or 390.
        scheme: What the reader prefers, light or dark.
        wait: What to wait for: load, domcontentloaded or networkidle.
        browser: From ``launch``; None: one is started.
    """
    with nullcontext(browser) if browser else launch() as started:
        size = {"width": width, "height": WIDTHS.get(width, 900)}
        with started.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce") as context:
            page = context.new_page()
            visit = Visit(page)
            page.on("request", lambda request: visit.note_request(request.url))
            page.on("pageerror", lambda error: visit.errors.append(str(error)))
            page.on("console", lambda line: visit.errors.append(line.text) if line.type == "error" else None)
            page.goto(address, wait_until=wait)
            yield visit
            visit.overflow = visit.measure()


def look(address: str, folder: Path, name: str, *, wait: str = "load", full_page: bool = True) -> list[Visit]:
    """Open a page at both widths and in both schemes, and take a screenshot of each: NAME-1280-dark.png and so on.

    Set VGP_SCREENSHOTS to a folder to keep them there.

    Args:
        address: The page's.
        folder: Where the pictures go.
        name: Beginning of their names.
        wait: As in ``open_page``.
        full_page: Take the whole page and not only its first screen.

    Returns:
        The visits, which have ended; ``check`` each.
    """
    folder = Path(os.environ.get("VGP_SCREENSHOTS", folder))
    folder.mkdir(parents=True, exist_ok=True)
    visits = []
    with launch() as browser:
        for width, scheme in product(WIDTHS, SCHEMES):
            with open_page(address, width=width, scheme=scheme, wait=wait, browser=browser) as visit:
                visit.page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=full_page)
            visits.append(visit)
    return visits
