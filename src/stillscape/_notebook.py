"""What a notebook shows of a result: its verdict and its figure, as HTML that stands alone and needs no script."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


class Result(dict[str, Any]):
    """The content of result.json: a plain dictionary in every way, that a notebook shows as verdict and figure."""

    def _repr_html_(self) -> str:
        return result_html(self)


def result_html(result: Mapping[str, Any]) -> str:
    """Return verdict, figure and the answer of each way to train.

    Cost: one figure, about 0.15 s.
    """
    from stillscape.report import words

    verdict, question = result["verdict"], result.get("question") or {}
    rows = [
        (
            words.adaptation_name(entry["adapt"]),
            words.status_name(entry["verdict"]["status"]),
            words.count(entry["verdict"]["k_star"]),
            " ".join(words.span(entry["verdict"]["low"], entry["verdict"]["high"], unit="").split()),
        )
        for entry in result["results"]
    ]
    level = words.percent(question.get("level"))
    lead = f"{words.status_mark(verdict['status'])} {words.status_name(verdict['status'])}"
    parts = [f"<p><strong>{escape(lead)}.</strong> {escape(verdict['sentence'])}</p>"]
    return box([*parts, _figure(result), table_html(["trained part", "answer", "k*", f"{level} interval"], rows)])


def _figure(result: Mapping[str, Any]) -> str:
    from stillscape._errors import InputError
    from stillscape.report import ComparisonDisplay, DataCurveDisplay
    from stillscape.report.style import house_style
    from stillscape.report.svg import inline_svg, swatch

    kind: Any = ComparisonDisplay if len(result["results"]) > 1 else DataCurveDisplay
    try:
        display = kind.from_result(result)
    except InputError:  # no curve was measured
        return ""
    ax = display.plot(legend=False).ax_
    # all outputs of a notebook share one space of ids
    name = "s" + hashlib.sha256(json.dumps(result, sort_keys=True, default=str).encode()).hexdigest()[:10]
    with house_style():
        handles, labels = ax.get_legend_handles_labels()
        keys = [
            f'<span style="margin-right:16px;white-space:nowrap"><span style="display:inline-block;width:28px">'
            f"{swatch(handle)}</span> {escape(label)}</span>"
            for handle, label in zip(handles, labels, strict=True)
        ]
        drawing = inline_svg(display.figure_, name, f"{display.title()}. {display.caption()}")
    legend = f'<div style="font-size:0.85em">{"".join(keys)}</div>'
    return f'<div style="max-width:520px">{drawing}</div>{legend}'


def box(parts: Iterable[str]) -> str:
    """Return parts that are HTML already as one block."""
    return f'<div class="stillscape" style="max-width:46em">{"".join(parts)}</div>'


def table_html(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain text.

    >>> table_html(["a"], [["<b>"]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def forecast_html(forecast: Any) -> str:
    """Return a forecast as a table, with how far it may be trusted."""
    rows = [
        (f"{size:,.0f}", f"{mean:.4g}", f"{low:.4g} to {high:.4g}")
        for size, mean, low, high in zip(forecast.sizes, forecast.mean, forecast.low, forecast.high, strict=True)
    ]
    table = table_html(["size", f"forecast {forecast.kind}", f"{100 * forecast.level:g} % interval"], rows)
    return box([table, f"<p>{escape(forecast.status.replace('_', ' '))}: {escape(forecast.reason)}.</p>"])


def required_html(required: Any) -> str:
    """Return the size that a target needs, in words."""
    size = "No size can be named" if required.value is None else f"{required.value:,.0f}"
    low, high = ("?" if end is None else f"{end:,.0f}" for end in (required.low, required.high))
    known = required.low is not None or required.high is not None
    interval = f" ({100 * required.level:g} % interval: {low} to {high})" if known else ""
    lead = f"Target {required.target:g}: {required.status.replace('_', ' ')}"
    return box([f"<p><strong>{escape(lead)}. {size}</strong>{interval}</p>", f"<p>{escape(required.reason)}.</p>"])
