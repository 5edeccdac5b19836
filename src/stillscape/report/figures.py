"""All figures of a result: drawn once for the page and once for papers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillscape._errors import InputError
from stillscape.report import svg
from stillscape.report.displays import (
    BlockShareDisplay,
    ClassGainDisplay,
    ComparisonDisplay,
    DataCurveDisplay,
    EffectiveRankDisplay,
    HessianDisplay,
    LossCurveDisplay,
    LossDifferenceDisplay,
    RetrainedAgainstFixedDisplay,
    SettlingSurfaceDisplay,
    SpectrumDisplay,
    SurfaceDifferenceDisplay,
    SurfaceEvidenceDisplay,
    WeightPathDisplay,
)
from stillscape.report.displays.base import Display, Table
from stillscape.report.style import add_legend, house_style

_OF_EACH: tuple[tuple[str, Any], ...] = (
    ("data-curve", DataCurveDisplay),
    ("loss-curve", LossCurveDisplay),
    ("class-gain", ClassGainDisplay),
    ("loss-difference", LossDifferenceDisplay),
    ("retrained-against-fixed", RetrainedAgainstFixedDisplay),
    ("hessian", HessianDisplay),
    ("spectrum", SpectrumDisplay),
    ("effective-rank", EffectiveRankDisplay),
    ("block-share", BlockShareDisplay),
    ("surface", SettlingSurfaceDisplay),
    ("surface-difference", SurfaceDifferenceDisplay),
    ("surface-way", WeightPathDisplay),
    ("surface-evidence", SurfaceEvidenceDisplay),
)


@dataclass(frozen=True)
class Drawing:
    """One figure, ready to be written.

    Attributes:
        name: file name without ending.
        title: plain text.
        caption: plain text.
        inline: SVG element for the page, already escaped.
        legend: pairs of swatch (an SVG element) and label (plain text).
        files: bytes by ending, "svg" and "pdf".
        table: header and rows.
    """

    name: str
    title: str
    caption: str
    inline: str
    legend: list[tuple[str, str]]
    files: dict[str, bytes]
    table: Table


def file_names(adapts: list[str]) -> dict[str, str]:
    """Return a file-safe name for each adaptation, none twice.

    >>> file_names(["lora:4", "../lora 4"])
    {'lora:4': 'lora-4', '../lora 4': 'lora-4-2'}
    """
    names: dict[str, str] = {}
    for adapt in adapts:
        stem = re.sub(r"[^a-z0-9]+", "-", adapt.lower()).strip("-")[:60] or "adaptation"
        name, turn = stem, 1
        while name in names.values():
            turn += 1
            name = f"{stem}-{turn}"
        names[adapt] = name
    return names


def draw_comparison(result: Mapping[str, Any]) -> Drawing | None:
    """Return the figure of all adaptations, or None where there is only one or nothing to show."""
    if len(result["results"]) < 2:
        return None
    try:
        return draw(ComparisonDisplay.from_result(result), "comparison")
    except InputError:  # no adaptation has the curve
        return None


def draw_adaptation(result: Mapping[str, Any], adapt: str, prefix: str) -> list[Drawing]:
    """Return the figures of one adaptation; those whose curves are absent are left out."""
    drawings = []
    for name, kind in _OF_EACH:
        try:
            display = kind.from_result(result, adapt)
        except InputError:  # a curve may be absent: the page then shows what there is
            continue
        drawings.append(draw(display, f"{prefix}-{name}"))
    return drawings


def draw(display: Display, name: str) -> Drawing:
    """Return a display as SVG for the page, and as files.

    Cost: three passes of matplotlib, about 0.15 s.
    """
    title, caption = display.title(), display.caption()
    ax = display.plot(legend=False).ax_
    handles, labels = ax.get_legend_handles_labels()
    inline = svg.inline_svg(display.figure_, name, f"{title}. {caption}")
    legend = [(svg.swatch(handle), label) for handle, label in zip(handles, labels, strict=True)]
    with house_style():
        add_legend(ax)
    files = {kind: svg.file_bytes(display.figure_, kind) for kind in ("svg", "pdf")}
    return Drawing(name, title, caption, inline, legend, files, display.table())
