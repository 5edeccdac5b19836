"""Chromium without a window, where there is one: fixtures that open a page, and skip where it can't be opened."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Draws WebGL on the processor; the second line is for machines whose tests run as root or without shared memory.
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-dev-shm-usage"]
READY = "[...document.querySelectorAll('figure.interactive')].every((figure) => figure.dataset.ready)"
WAIT_S = 60


@dataclass
class Opened:
    """A page that has drawn its surfaces, and what it did meanwhile."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def figure(self, number: int = 0) -> Any:
        """Return one of the surfaces."""
        return self.page.locator("figure.interactive").nth(number)

    def heights(self, number: int = 0) -> list[list[float]]:
        """Return the heights that plotly holds for a surface: rows along the second direction."""
        return self.page.evaluate(f"document.querySelectorAll('figure.interactive .plot')[{number}].data[0].z")

    def slide(self, place: int, shown: str) -> None:
        """Move the first slider with the keyboard, and wait until plane, quantity and k are the ones named."""
        slider = self.figure().locator("input[type=range]")
        steps = place - int(slider.input_value())
        for _ in range(abs(steps)):
            slider.press("ArrowRight" if steps > 0 else "ArrowLeft")
        self.until(f"document.querySelector('figure.interactive').dataset.shown === '{shown}'")

    def until(self, expression: str) -> None:
        """Wait until an expression is true; playwright's own way to wait would be refused by the page's policy."""
        ends = time.monotonic() + WAIT_S
        while not self.page.evaluate(expression):
            assert time.monotonic() < ends, f"not within {WAIT_S} s: {expression}"
            self.page.wait_for_timeout(30)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser; the tests are skipped where it, or what drives it, is missing."""
    found = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; install it, or name it in the environment variable CHROMIUM")
    if find_spec("playwright") is None:
        pytest.skip("playwright, which drives Chromium, is not installed")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            pytest.skip(f"{found} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """A function that opens a report; the look of the window is its keywords."""
    contexts = []

    def opened(path: Path, *, width: int = 1280, height: int = 900, wait: bool = True, **look: Any) -> Opened:
        context = chromium.new_context(viewport={"width": width, "height": height}, **look)
        contexts.append(context)
        context.set_default_timeout(1000 * WAIT_S)
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on("console", lambda line: found.errors.append(line.text) if line.type == "error" else None)
        found.page.on("dialog", lambda dialog: (found.errors.append(dialog.message), dialog.dismiss()))
        found.page.goto(path.as_uri())
        if wait:
            if not found.page.evaluate("!!document.createElement('canvas').getContext('webgl')"):
                pytest.skip("this Chromium draws no WebGL")
            found.until(READY)
        return found

    yield opened
    for context in contexts:
        context.close()
