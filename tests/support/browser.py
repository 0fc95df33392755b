"""Debian's Chromium, headless. It records what a page must never do: log an error, throw, or send a request to another host."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from tests.support.worker import ROOT

#: Ignored by Git. A CI run keeps this folder.
SCREENSHOTS = ROOT / ".screenshots"

#: How long one action or expectation may take. Longer than two refreshes of a page (2 s each) on a busy machine.
PATIENCE_MILLISECONDS = 60_000

PHONE = {"width": 375, "height": 740}
DESK = {"width": 1280, "height": 800}


def chromium_path() -> str | None:
    """The path of the installed browser (Debian's package is `chromium`); None if there is none."""
    return next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@contextmanager
def running_chromium(path: str) -> Iterator[Browser]:
    """One browser process. It reaches only this machine: no other name is resolved."""
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"]
    if os.getuid() == 0:
        arguments.append("--no-sandbox")  # Chromium does not start as root with one, and CI is root
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A browser context of its own, with one page, and the errors seen there.

    `base` is the address of Flower; `login` is "user:password". Use `page`; at the end `complaints` must be empty.
    """

    def __init__(
        self,
        browser: Browser,
        base: str,
        *,
        login: str | None = None,
        size: dict[str, int] | None = None,
        dark: bool = False,
    ) -> None:
        name, _, password = (login or "").partition(":")
        self.base = base
        self.complaints: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self.context: BrowserContext = browser.new_context(
            base_url=base,
            viewport=size or DESK,  # type: ignore[arg-type]
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            http_credentials={"username": name, "password": password, "origin": base} if login else None,
        )
        self.context.set_default_timeout(PATIENCE_MILLISECONDS)
        self.context.on("console", self._console)
        self.context.on("weberror", lambda error: self._complain(f"page error: {error.error}"))
        self.context.on("request", self._request)
        self.context.on("response", self._response)
        self.page: Page = self.context.new_page()
        #: How often the page was loaded: a live page is loaded once.
        self.loads = 0
        self.page.on("load", lambda _: setattr(self, "loads", self.loads + 1))

    def expect_complaint(self, pattern: str) -> None:
        """Ignore complaints that match: the test provokes them."""
        self._expected.append(re.compile(pattern))

    def open(self, path: str) -> Page:
        """Open a page of Flower. Returns when it is loaded."""
        answer = self.page.goto(path, wait_until="load")
        assert answer is not None and answer.status < 400, f"{path}: {answer and answer.status}"
        return self.page

    def screenshot(self, name: str) -> Path:
        """The whole page, as `.screenshots/NAME.png`."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.evaluate("document.activeElement.closest('dialog') || (document.activeElement.blur(), window.scrollTo(0, 0))")
        self.page.screenshot(path=path, full_page=True, animations="disabled")
        return path

    def close(self) -> None:
        self.context.close()

    def _complain(self, text: str) -> None:
        if not any(pattern.search(text) for pattern in self._expected):
            self.complaints.append(text)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complain(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.base + "/", "data:", "blob:", "about:")):
            self._complain(f"asks another host: {request.url}")

    def _response(self, response: Response) -> None:
        # The browser itself answers the server's first 401 with the login.
        if response.status >= 400 and response.status != 401:
            self._complain(f"{response.status} for {response.request.method} {urlsplit(response.url).path}")


#: Finds every usable control, and how it looks without the focus.
_CONTROLS = """() => {
    document.activeElement.blur();
    const look = (one) => { const s = getComputedStyle(one); return [s.outlineStyle, s.outlineWidth, s.boxShadow, s.borderColor].join(); };
    const there = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")].filter(
        (one) => !one.disabled && one.tabIndex >= 0 && one.checkVisibility({visibilityProperty: true}));
    window.__controls = there.map((one) => ({one, look: look(one), reached: false, seen: false}));
    document.addEventListener("focusin", (event) => {
        const found = window.__controls.find(({one}) => one === event.target);
        if (found) { found.reached = true; found.seen ||= look(found.one) !== found.look; }
    });
    return there.length;
}"""
_LEFT_OUT = """() => window.__controls.filter(({one, reached, seen}) => one.isConnected && !(reached && seen)).map(
    ({one, reached}) => (reached ? "no focus seen: " : "not reached: ") + one.outerHTML.slice(0, 200))"""


def left_out_of_the_keyboard(page: Page) -> list[str]:
    """Press Tab through the page. Returns the controls that Tab does not reach, and those that do not show their focus."""
    found: list[str] = []
    # Chromium also stops at scrollable boxes. They are not controls, so they do not count.
    for _ in range(3):
        for _ in range(page.evaluate(_CONTROLS) if not found else len(found) + 20):
            page.keyboard.press("Tab")
        found = page.evaluate(_LEFT_OUT)
        if not found:
            break
    return found


def wider_than_the_window(page: Page) -> list[str]:
    """The elements that make the page scroll sideways; empty if it does not. (A table may scroll inside its own box.)"""
    found: list[str] = page.evaluate(
        """() => {
            const wide = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= wide) return [];
            const out = [...document.body.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > wide + 1);
            return [`${document.documentElement.scrollWidth} > ${wide}`, ...out.slice(0, 5).map((one) => one.outerHTML.slice(0, 150))];
        }"""
    )
    return found
