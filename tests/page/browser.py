"""A service, and a browser that looks at it: Debian's Chromium, driven by Playwright, which lets nothing leave this
machine and keeps what went wrong on a page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright

from rightrank.service.client.http import Client
from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import Settings
from tests.service.conftest import at_work, serving

CHROMIUM = "chromium"
DESKTOP, PHONE = (1280, 900), (390, 844)
# How long anything on a page may take, in milliseconds: this machine may be busy.
PATIENCE = 60_000
# What a browser says of every answer that is no success, and the page shows in words.
REFUSED = "the server responded with a status of"


@dataclass
class Looking:
    """Pages of one reader, what they asked elsewhere for, and what they complained of."""

    address: str
    context: BrowserContext
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.address + path)
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and REFUSED not in message.text:
            self.complaints.append(message.text)

    def within(self, route: Route) -> None:
        """Lets only what is asked of this machine pass."""
        if urlsplit(route.request.url).hostname in ("127.0.0.1", None):
            route.fallback()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Raises `SystemExit` where there is none."""
    path = shutil.which(CHROMIUM)
    if path is None:
        raise SystemExit("There is no Chromium: apt-get install chromium (Debian's package) is what test-page needs.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def looking(
    browser: Browser, address: str, size: tuple[int, int] = DESKTOP, scheme: str = "light"
) -> Iterator[Looking]:
    """A reader with a screen of this size. Raises `AssertionError` at the end where a page complained of anything,
    asked elsewhere for anything, or was wider than its screen."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        accept_downloads=True,
    )
    found = Looking(address, context)
    context.route("**/*", found.within)
    yield found
    wide = [page.url for page in context.pages if page.evaluate("document.documentElement.scrollWidth > innerWidth")]
    context.close()
    wrong = {"asked elsewhere": found.elsewhere, "complaints": found.complaints, "wider than the screen": wide}
    assert not any(wrong.values()), wrong


@contextlib.contextmanager
def service(folder: Path, keys: Path | None = None, working: bool = True) -> Iterator[str]:
    """A service over `folder`, with a worker; its address."""
    settings = Settings(data=folder, cache_bytes=64 * 1024 * 1024, wait=20, keys_file=keys, sandbox="best")
    with Embedded(settings), serving(settings) as running, contextlib.ExitStack() as stack:
        if working:
            stack.enter_context(at_work(settings))
        yield str(running.client.base_url).rstrip("/")


def publish(address: str, checkpoint: Path, key: str | None = None, **options: object) -> str:
    """Publishes a model with what lies beside its checkpoint, and waits; its id."""
    with Client(address, key) as client:
        beside = {
            role: path
            for role in ("evaluation", "calibration")
            if (path := checkpoint.with_name(f"{role}.safetensors")).exists()
        }
        answer = client.push(checkpoint, **beside, **options)  # type: ignore[arg-type]
        client.wait(str(answer["operation"]))
    return str(answer["id"])
