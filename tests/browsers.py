"""A headless Chromium without network access.

A test module imports the fixture ``browser`` and opens pages in it:

    browser = browsers.browser

    def test_it(browser: Browser) -> None:
        with browser.page(width=390) as page:
            page.goto(path.as_uri())
            page.settle()
            assert page.problems == []
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "http://localhost:")


class Page:
    """A Playwright page that also records problems."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self.problems: list[str] = []  # errors, failed requests, requests to other machines
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        page.on("response", self._response)
        page.route("**/*", self._route)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console {message.type}: {message.text}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"status {response.status}: {response.url}")

    def _route(self, route: Any) -> None:
        if route.request.url.startswith(LOCAL):
            route.continue_()
        else:  # recorded by requestfailed
            route.abort()

    def settle(self) -> None:
        """Wait until everything is loaded and drawn for the first time."""
        self._page.wait_for_load_state("networkidle")
        self._page.wait_for_function("() => [...document.images].every(image => image.complete)")
        self._page.evaluate("() => new Promise(f => requestAnimationFrame(() => setTimeout(f, 0)))")

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        found: int = self._page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return found

    def image_widths(self) -> list[int]:
        """The natural width of each image: 0 where it could not be shown."""
        script = "() => Array.from(document.images, image => image.naturalWidth)"
        found: list[int] = self._page.evaluate(script)
        return found


class Browser:
    """A running browser."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextlib.contextmanager
    def page(self, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Page]:
        """Open a page in a new context, with a window of this size."""
        window = {"width": width, "height": height}
        context = self._browser.new_context(viewport=window, **options)
        context.set_default_timeout(30_000)
        try:
            yield Page(context.new_page())
        finally:
            context.close()


def program() -> str | None:
    """Path of the browser: TUNER_BROWSER, or the first one on the PATH."""
    named = os.environ.get("TUNER_BROWSER")
    return named or next((path for path in map(shutil.which, PROGRAMS) if path), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the browser, or skip the test if there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = program()
    if found is None:
        pytest.skip(f"no browser was found: none of {', '.join(PROGRAMS)} is on the PATH")
    with playwright.sync_playwright() as driver:
        # The sandbox needs privileges that containers do not grant.
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        running = driver.chromium.launch(executable_path=found, args=options)
        try:
            yield Browser(running)
        finally:
            running.close()
