"""The made-up result, fresh for each test, and a page written from it once."""

import copy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stillscape.report import write_report
from tests.report.example import example_result


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._in_style else data

    def attributes(self, name: str) -> list[str]:
        """Return every value of an attribute, in order."""
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


@pytest.fixture
def result() -> dict[str, Any]:
    return copy.deepcopy(example_result())


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the example's report in it; not to be changed."""
    where = tmp_path_factory.mktemp("run")
    write_report(example_result(), where)
    return where


@pytest.fixture(scope="session")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def parse() -> type[Page]:
    return Page
