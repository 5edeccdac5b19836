"""From a matplotlib figure to bytes: files for papers, and an SVG inside the page that takes on its colors."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from html import escape
from typing import TYPE_CHECKING, Any

from stillscape.report.style import COLORS, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HREF = "{http://www.w3.org/1999/xlink}href"
_NO_DATES = {"svg": {"Date": None, "Creator": None, "Format": None, "Type": None}, "pdf": {"CreationDate": None}}
_VARIABLES = {code: f"var(--fig-{name}, {code})" for name, code in COLORS.items()}
_COLOR = re.compile("|".join(_VARIABLES))
_FAMILY = re.compile(r"font-family: [^;]*; ?")
_NO_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def file_bytes(figure: "Figure", kind: str) -> bytes:
    """Return the figure as a file; the same figure gives the same bytes.

    SVG letters are outlines and PDF fonts are embedded, so that both look the same everywhere.

    Args:
        figure: the figure.
        kind: "svg" or "pdf".
    """
    return _saved(figure, kind, {"svg.fonttype": "path", "pdf.fonttype": 42}, "white")  # 42: TrueType, as journals ask


def inline_svg(figure: "Figure", name: str, label: str) -> str:
    """Return the figure as an SVG element for the page.

    Letters stay letters in the page's own font, colors become CSS variables, and ids get `name` as a prefix, since
    all figures of a page share one space of ids.

    Args:
        figure: the figure, without a legend.
        name: prefix of the ids.
        label: what a screen reader says.
    """
    root = ET.fromstring(_saved(figure, "svg", {"svg.fonttype": "none"}, "none"))
    used = {match for element in root.iter() for match in _references(element)}
    for parent in root.iter():
        for child in [child for child in parent if _local(child.tag) in ("metadata", "style")]:
            parent.remove(child)
        _adapt(parent, used, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    text = ET.tostring(root, encoding="unicode")
    return text if text.isascii() else text.encode("ascii", "xmlcharrefreplace").decode()


def swatch(handle: object) -> str:
    """Return a small SVG of a legend handle (a line or a patch) in the page's colors."""
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D

    if not isinstance(handle, Line2D):
        face = handle.get_facecolor()  # type: ignore[attr-defined]
        body = (
            f'<rect x="0" y="1" width="28" height="10" style="fill:{_css(to_hex(face))};fill-opacity:{face[3]:.2f}"/>'
        )
        return _swatch(body)
    color, body = _css(to_hex(handle.get_color())), ""
    if handle.get_linestyle() not in ("None", "none"):
        pattern = handle._unscaled_dash_pattern[1]  # type: ignore[attr-defined]  # no public reader for it
        dashes = ",".join(f"{dash:g}" for dash in pattern or ())
        stroke = f"stroke:{color};stroke-width:{handle.get_linewidth():g};stroke-dasharray:{dashes or 'none'}"
        body = f'<path d="M0 6H28" style="{stroke}"/>'
    marker = _MARKERS.get(str(handle.get_marker()))
    if marker:
        fill = "none" if handle.get_fillstyle() == "none" else color
        body += f'<path d="{marker}" style="fill:{fill};stroke:{color};stroke-width:1"/>'
    return _swatch(body)


_MARKERS = {
    "o": "M17 6a3 3 0 1 1-6 0a3 3 0 1 1 6 0z",
    "s": "M11 3h6v6h-6z",
    "^": "M14 2.5l3.6 6.5h-7.2z",
    "v": "M14 9.5l3.6-6.5h-7.2z",
    "D": "M14 2l4 4l-4 4l-4-4z",
    "P": "M12.7 2.5h2.6v2.2h2.2v2.6h-2.2v2.2h-2.6v-2.2h-2.2v-2.6h2.2z",
}


def _swatch(body: str) -> str:
    return f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{body}</svg>'


def _css(color: str) -> str:
    return _VARIABLES.get(color.lower(), escape(color))


def _saved(figure: "Figure", kind: str, rc: dict[str, Any], face: str) -> bytes:
    buffer = io.BytesIO()
    with house_style(**rc), warnings.catch_warnings():
        # A name in a script that the built-in font lacks draws as boxes; that is no reason to lose the report.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=kind, metadata=_NO_DATES[kind], facecolor=face)
    # A class may be called anything; what XML has no letter for would make the file one that nothing opens.
    return _NO_XML.sub("\ufffd".encode(), buffer.getvalue()) if kind == "svg" else buffer.getvalue()


def _references(element: ET.Element) -> list[str]:
    href = element.attrib.get(_HREF, "")
    found = [match for value in element.attrib.values() for match in _REFERENCE.findall(value)]
    return [*found, href[1:]] if href.startswith("#") else found


def _adapt(element: ET.Element, used: set[str], name: str) -> None:
    element.tag = _local(element.tag)
    element.tail = (element.tail or "").strip() or None
    attributes = {}
    for key, value in element.attrib.items():
        if key == "id":
            if value in used:
                attributes["id"] = f"{name}-{value}"
        elif key == _HREF:
            attributes["href"] = f"#{name}-{value[1:]}" if value.startswith("#") else value
        else:
            value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
            if key == "style":
                value = _FAMILY.sub("", _COLOR.sub(lambda match: _VARIABLES[match[0]], value))
            attributes[_local(key)] = value
    element.attrib = attributes


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
