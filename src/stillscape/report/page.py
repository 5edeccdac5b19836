"""The page: everything that a run found, in one HTML file that needs no network; of scripts, only the surface's own."""

from collections.abc import Mapping
from typing import Any

from stillscape._files import make_folder, write_whole
from stillscape._folders import Folder, as_folder, within
from stillscape.report import tables, words
from stillscape.report.figures import Drawing, draw_adaptation, draw_comparison, file_names
from stillscape.report.interactive import Interactive, interactive, script
from stillscape.report.scale import ruler
from stillscape.report.series import check_result
from stillscape.report.templates import rendered


def write_report(result: Mapping[str, Any], folder: str | Folder) -> Folder:
    """Write report.html, and its figures as files, into a run folder.

    The page is told from the result alone: the same result gives the same bytes.

    Args:
        result: what result.json holds.
        folder: where to write, a path or an address; made where it is missing.

    Returns:
        Path of report.html; the figures lie beside it under figures/ as PDF and SVG.

    Raises:
        RecordError: this isn't a result, or it is of another schema.
        InputError: the disk can take no more.

    Cost: about 0.15 s a figure, four or five figures an adaptation.
    """
    check_result(result)
    names = file_names([entry["adapt"] for entry in result["results"]])
    comparison = draw_comparison(result)
    figures = {adapt: draw_adaptation(result, adapt, name) for adapt, name in names.items()}
    drawings = [drawing for group in figures.values() for drawing in group] + ([comparison] if comparison else [])
    folder = as_folder(folder)
    within(folder, folder / "figures")
    make_folder(folder / "figures")  # the run folder has it, be there figures or not
    for drawing in drawings:
        for kind, content in drawing.files.items():
            write_whole(folder / "figures" / f"{drawing.name}.{kind}", content)
    page = folder / "report.html"
    write_whole(page, rendered("template.html", _page(result, names, figures, comparison)).encode())
    return page


_NO_VERDICT: dict[str, Any] = {
    "status": "cannot_tell",
    "adapt": None,
    "k_star": None,
    "low": None,
    "high": None,
    "sentence": "",
}
_NO_QUESTION: dict[str, Any] = {"data": None, "evaluation": None, "level": None, "sizes": []}


def _page(
    result: Mapping[str, Any], names: dict[str, str], figures: dict[str, list[Drawing]], comparison: Drawing | None
) -> dict[str, Any]:
    question = {**_NO_QUESTION, **(result.get("question") or {})}
    verdict = {**_NO_VERDICT, **(result.get("verdict") or {})}
    metric = question.get("metric") or "accuracy"
    sections = [
        _section(entry, question, names[entry["adapt"]], figures[entry["adapt"]]) for entry in result["results"]
    ]
    return {
        "script": script() if any(section["surface"] for section in sections) else None,
        "headline": headline(verdict, question),
        "enough": meaning_of_enough(question),
        "verdict": verdict,
        "question": question,
        "metric": metric,
        "facts": _facts(question),
        "ruler": ruler(question.get("sizes") or [], verdict),
        "comparison": _figure(comparison, metric) if comparison else None,
        "sections": sections,
        "provenance": sorted((str(key), str(value)) for key, value in (result.get("provenance") or {}).items()),
    }


def _section(
    entry: Mapping[str, Any], question: Mapping[str, Any], name: str, figures: list[Drawing]
) -> dict[str, Any]:
    metric = question.get("metric") or "accuracy"
    verdict = {**_NO_VERDICT, **(entry.get("verdict") or {})}
    return {
        "id": name,
        "adapt": entry["adapt"],
        "name": words.adaptation_name(entry["adapt"]),
        "verdict": verdict,
        "ruler": ruler(question.get("sizes") or [], verdict),
        "figures": [_figure(drawing, metric) for drawing in figures],
        "surface": _surface(interactive(entry, name), metric),
        "criteria": tables.criteria_rows(entry, question),
        "gains": tables.gain_rows(entry, question),
        "spread": tables.spread_rows(entry, metric),
        "classes": tables.class_table(entry),
        "runs": tables.runs_table(entry, metric),
        "constants": [
            (key.replace("_", " "), words.number(each.get("value")), each.get("meaning") or "")
            for key, each in (entry.get("constants") or {}).items()
        ],
        "notes": [*(entry.get("said") or []), *(entry.get("notes") or [])],
    }


def _figure(drawing: Drawing, metric: str) -> dict[str, Any]:
    return {"drawing": drawing, "table": tables.printed(drawing.table, metric)}


def _surface(found: Interactive | None, metric: str) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"content": found, "tables": [(name, tables.printed(table, metric)) for name, table in found.tables]}


def headline(verdict: Mapping[str, Any], question: Mapping[str, Any]) -> str:
    """Return the answer in a handful of words.

    >>> headline({"status": "reached", "k_star": 1200}, {})
    '1,200 images are enough'
    >>> headline({"status": "not_reached", "k_star": None}, {"sizes": [50, 400]})
    '400 images are not enough yet'
    """
    status, largest = verdict.get("status"), max(question.get("sizes") or [0])
    if status == "reached" and verdict.get("k_star") is not None:
        return f"{words.images(verdict['k_star'])} are enough"
    if status == "not_reached":
        return f"{words.images(largest)} are not enough yet" if largest else "Not enough data yet"
    return "These runs cannot tell"


def meaning_of_enough(question: Mapping[str, Any]) -> str:
    """Return what "enough" means in this run, in one sentence."""
    metric = question.get("metric") or "accuracy"
    name = words.curve_name(metric)
    if question.get("target") is not None:
        side = "at or below" if words.lower_is_better(metric) else "at or above"
        return f"Enough means: from that size on, {name} stays {side} {words.quantity(question['target'], metric)}."
    if question.get("cost_per_image") is not None:
        cost, value = words.number(question["cost_per_image"]), words.number(question["value_per_point"])
        return (
            f"Enough means: from that size on, doubling the images costs more, at {cost} an image, than the gain in "
            f"{name} is worth, at {value} a point."
        )
    gain = words.change(question.get("epsilon"), metric, signed=False)
    verb = "lowers" if words.lower_is_better(metric) else "raises"
    return f"Enough means: from that size on, doubling the images {verb} {name} by no more than {gain}."


def _facts(question: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = ", ".join(words.count(size) for size in question.get("sizes") or []) or words.DASH
    groups = question.get("num_groups")
    data = f"{words.images(question.get('num_images'))} in {words.count(question.get('num_classes'))} classes"
    repeats, seeds = question.get("repeats"), question.get("seeds")
    subsets = f"{words.count(repeats)} random order{'' if repeats == 1 else 's'} of the images"
    return [
        ("Data", str(question.get("data") or words.DASH)),
        ("Size", data + (f", {words.count(groups)} groups" if groups is not None else "")),
        ("Model", str(question.get("model") or words.DASH)),
        ("Learned from", f"{sizes} images"),
        ("Repeated", f"{subsets}, {words.count(seeds)} seed{'' if seeds == 1 else 's'} each"),
        ("Judged on", str(question.get("evaluation") or words.DASH)),
    ]
