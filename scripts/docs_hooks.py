"""What the site's build adds: formulas as MathML, the command line from its own help, rooms from their docstrings.

mkdocs calls the functions that begin with `on_`. Nothing is fetched, and nothing that is generated is kept in the
repository, so that it can't grow stale.
"""

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

_PIECES = re.compile(
    r"(?P<display>^```math\n(?P<shown>.*?)^```$)"
    r"|(?P<fence>^```.*?^```$)"
    r"|(?P<code>`+[^`\n]+`+)"
    r"|(?<!\\)\$(?P<inline>[^$\n]+(?:\n[^$\n]+)?)\$",
    re.MULTILINE | re.DOTALL,
)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
#: Letters for private use: no text holds them, and they leave no trace in the anchors of headings.
_OPEN, _CLOSE, _ZERO = "\ue100", "\ue101", 0xE000
_MARK = re.compile(f"{_OPEN}([{chr(_ZERO)}-{chr(_ZERO + 9)}]+){_CLOSE}")
_FORMULAS: dict[str, list[str]] = {}


def with_formulas_set_aside(text: str) -> tuple[str, list[str]]:
    """Return a page with a mark in place of each formula, and the formulas as MathML; code keeps its dollars.

    >>> text, formulas = with_formulas_set_aside("`$x$` and $y$")
    >>> text.split()[:2], len(formulas), "<mi>y</mi>" in formulas[0]
    (['`$x$`', 'and'], 1, True)
    """
    from latex2mathml.converter import convert

    formulas: list[str] = []

    def aside(piece: re.Match[str]) -> str:
        shown, inline = piece["shown"], piece["inline"]
        if shown is None and inline is None:
            return piece[0]
        display = "inline" if shown is None else "block"
        formulas.append(convert((inline or shown).strip(), display=display))
        place = "".join(chr(_ZERO + int(digit)) for digit in str(len(formulas) - 1))
        mark = f"{_OPEN}{place}{_CLOSE}"
        return mark if shown is None else f"\n\n{mark}\n\n"

    return _PIECES.sub(aside, text), formulas


def with_formulas_back(html: str, formulas: list[str]) -> str:
    """Put the formulas where their marks stand."""

    def formula(mark: re.Match[str]) -> str:
        return formulas[int("".join(str(ord(letter) - _ZERO) for letter in mark[1]))]

    return _MARK.sub(formula, html)


def without_links_out_of_the_site(text: str) -> str:
    """Name files of the repository instead of linking to where the site has nothing.

    >>> without_links_out_of_the_site("see [the table](../benchmarks/README.md) and [x](limits.md)")
    'see the table (`benchmarks/README.md` of the repository) and [x](limits.md)'
    """

    def named(link: re.Match[str]) -> str:
        path = re.sub(r"^(\.\./)+", "", link[2])
        return f"`{path}`" if link[1].strip("`") == path else f"{link[1]} (`{path}` of the repository)"

    return _OUTSIDE.sub(named, text)


def command_line_page() -> str:
    """Return the page of the command line, from the help that each command prints."""
    import typer
    from typer.testing import CliRunner

    from stillscape.cli import app

    group: Any = typer.main.get_command(app)
    lines = [
        "# The command line",
        "",
        "What `stillscape COMMAND --help` prints, taken from it when this page was built.",
        "",
    ]
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):  # either would put escapes into the page
        os.environ.pop(name, None)
    environment = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    for name in group.commands:
        shown = CliRunner().invoke(app, [name, "--help"], prog_name="stillscape", env=environment)
        if shown.exit_code:
            raise RuntimeError(f"stillscape {name} --help ends with {shown.exit_code}")
        text = "\n".join(line.rstrip() for line in shown.stdout.strip("\n").splitlines())
        lines += [f"## {name}", "", group.commands[name].help.splitlines()[0], "", "```text", text, "```", ""]
    return "\n".join(lines)


def room_pages() -> dict[str, str]:
    """Return a page for each room, by its path: what is public, in the words of the docstrings."""
    import stillscape

    pages = {}
    for room in stillscape.__all__:
        names = importlib.import_module(f"stillscape.{room}").__all__
        members = "".join(f"        - {name}\n" for name in names)
        pages[f"api/{room}.md"] = f"# {room}\n\n::: stillscape.{room}\n    options:\n      members:\n{members}"
    links = "".join(f"- [{room}]({room}.md): {_first_line(room)}\n" for room in stillscape.__all__)
    pages["api/index.md"] = f"# From Python\n\nThe rooms, in the order in which data flow through them.\n\n{links}"
    return pages


def _first_line(room: str) -> str:
    return (importlib.import_module(f"stillscape.{room}").__doc__ or "").strip().splitlines()[0]


def on_config(config: Any) -> Any:
    """Put pages into the navigation that the repository need not have."""
    if (Path(config["docs_dir"]) / "reproductions.md").is_file():
        config["nav"].append({"Reproductions": "reproductions.md"})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are generated."""
    from mkdocs.structure.files import File

    for path, content in {"command-line.md": command_line_page(), **room_pages()}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Set formulas aside before anything can take their underscores for emphasis."""
    text, formulas = with_formulas_set_aside(without_links_out_of_the_site(markdown))
    _FORMULAS[page.file.src_uri] = formulas
    return text


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Put formulas back, in the text and in the table of contents."""
    formulas = _FORMULAS.pop(page.file.src_uri, [])
    headings = list(page.toc)
    while headings:
        heading = headings.pop()
        heading.title = with_formulas_back(heading.title, formulas)
        headings += heading.children
    return with_formulas_back(html, formulas)
