"""The page of several runs: one HTML file that needs no network and no script."""

from collections.abc import Mapping, Sequence
from typing import Any

from stillscape._errors import InputError
from stillscape._files import write_whole
from stillscape._folders import Folder, as_folder
from stillscape.report import tables, words
from stillscape.report.figures import Drawing, draw
from stillscape.report.page import meaning_of_enough
from stillscape.report.runs_figure import RunsDisplay
from stillscape.report.templates import rendered
from stillscape.sufficiency import in_a_list

_TONES = {"told": "reached", "none_reached": "not_reached"}


def write_comparison(comparison: Mapping[str, Any], path: str | Folder) -> Folder:
    """Write the page of a comparison.

    The page is told from the comparison alone: the same one gives the same bytes.

    Args:
        comparison: what `stillscape.experiments.compare_runs` returns.
        path: the file to write; its folder is made where missing.

    Returns:
        the path.

    Raises:
        InputError: the path is a folder, or the disk can take no more.

    Cost: one figure, about 0.15 s.
    """
    path = as_folder(path)
    if path.is_dir():
        raise InputError(
            f"out is {str(path)!r}, which is a folder; name a file, such as {str(path / 'compare.html')!r}."
        )
    write_whole(path, rendered("compare.html", _page(comparison)).encode())
    return path


def _page(comparison: Mapping[str, Any]) -> dict[str, Any]:
    drawing = _drawing(comparison)
    metric = comparison["metric"]
    numbers = number_tables(comparison)
    return {
        "headline": headline(comparison),
        "verdict": comparison["verdict"],
        "tone": _TONES.get(comparison["verdict"]["status"], "cannot_tell"),
        "runs": comparison["runs"],
        "cards": _cards(comparison),
        "figure": {"drawing": drawing, "table": tables.printed(drawing.table, metric)} if drawing else None,
        "tables": numbers,
        "table_note": _table_note(comparison),
        "copyable": _copyable(numbers),
        "joint": joint_sentence(comparison),
        "scores_sentence": scores_sentence(comparison),
        "differences": comparison["differences"],
        "barring": [f"Different {each['what']}: {each['means']}" for each in comparison["differences"] if each["bars"]],
    }


def _drawing(comparison: Mapping[str, Any]) -> Drawing | None:
    try:
        return draw(RunsDisplay.from_comparison(comparison), "runs")
    except InputError:  # no metric in common
        return None


def headline(comparison: Mapping[str, Any]) -> str:
    """Return the answer in a handful of words.

    >>> headline({"verdict": {"status": "told", "fewest": [1]}, "contenders": [{}, {"label": "b (head)"}]})
    'b (head) needs the fewest images'
    >>> headline({"verdict": {"status": "cannot_tell", "fewest": [0, 1]}, "contenders": [{}, {}]})
    "Which needs fewer images can't be told"
    """
    verdict, contenders = comparison["verdict"], comparison["contenders"]
    if verdict["status"] == "told":
        return f"{contenders[verdict['fewest'][0]]['label']} needs the fewest images"
    if verdict["status"] == "none_reached":
        return "None of the runs has enough yet"
    if verdict["status"] == "not_comparable":
        return "These runs can't be ranked"
    return f"Which needs {'fewer' if len(contenders) == 2 else 'the fewest'} images can't be told"


def scores_sentence(comparison: Mapping[str, Any]) -> str:
    """Return which contender scores best at the largest common size, and which can't be told from it."""
    scores, contenders, metric = comparison["scores"], comparison["contenders"], comparison["metric"]
    if scores["best"] is None:
        return scores["reason"]
    rows = list(zip(contenders, scores["rows"], strict=True))
    best = contenders[scores["best"]]["label"]
    value = words.quantity(scores["rows"][scores["best"]]["mean"], metric)
    lead = f"At {words.images(scores['k'])}, the largest size that all measured, {best} did best: {value}."
    tied = [each["label"] for each, row in rows if row["behind"] and not row["behind"]["told"]]
    worse = [each["label"] for each, row in rows if row["behind"] and row["behind"]["told"]]
    parts = [lead]
    if tied:
        parts.append(f"{in_a_list(tied)} can't be told from it.")
    if worse:
        parts.append(f"It is ahead of {in_a_list(worse)} by more than their noise.")
    return " ".join(parts)


def _cards(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    chosen = comparison["verdict"]["fewest"] if comparison["verdict"]["status"] == "told" else []
    cards = []
    for place, each in enumerate(comparison["contenders"]):
        verdict, question = each["verdict"], comparison["runs"][each["run"]]["question"]
        level = f"{words.percent(question.get('level'))} interval"
        cards.append(
            {
                "chosen": place in chosen,
                "run": " · ".join(
                    [each["name"], question.get("model") or words.DASH, question.get("data") or "data not named"]
                ),
                "title": words.adaptation_name(each["adapt"]),
                "verdict": verdict,
                "size": _size(verdict, question),
                "interval": f"{level}: {words.span(verdict.get('low'), verdict.get('high'))}"
                if verdict.get("k_star") is not None
                else "No sufficient size within what was measured.",
                "enough": meaning_of_enough(question),
            }
        )
    return cards


def _size(verdict: Mapping[str, Any], question: Mapping[str, Any]) -> str:
    if verdict.get("k_star") is not None:
        return words.images(verdict["k_star"])
    largest = words.count(max(question.get("sizes") or [0]))
    return f"{largest} are too few" if verdict.get("status") == "not_reached" else "not known"


def number_tables(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of all contenders, as words ready to print: answers with scores, and forecasts with costs."""
    metric, scores, ahead = comparison["metric"], comparison["scores"], comparison["forecast"]
    contenders = comparison["contenders"]
    measured = ["Answer", "k*", "Interval", *(["Interval, all together"] if _many(comparison) else []), "Largest size"]
    if scores["k"] is not None:
        name = words.sentence_case(words.curve_name(metric))
        measured += [f"{name} at {words.count(scores['k'])}", "Behind the best"]
    later = [f"Forecast at {words.count(size)}" for size in ahead["sizes"]]
    later += ["Trained parameters", "Trainings", "Seconds"]
    rows = [(_measured_cells(comparison, place), _later_cells(comparison, place)) for place in range(len(contenders))]
    names = [[each["name"], words.adaptation_name(each["adapt"])] for each in contenders]
    titles = ("Answers and scores", "Forecasts and costs")
    return [
        {
            "title": title,
            "headers": ["Run", "Trained part", *headers],
            "rows": [own + row[part] for own, row in zip(names, rows, strict=True)],
        }
        for part, (title, headers) in enumerate(zip(titles, (measured, later), strict=True))
    ]


def _measured_cells(comparison: Mapping[str, Any], place: int) -> list[str]:
    each, scores = comparison["contenders"][place], comparison["scores"]
    verdict, question = each["verdict"], comparison["runs"][each["run"]]["question"]
    cells = [
        words.status_name(verdict.get("status") or ""),
        words.count(verdict.get("k_star")),
        interval_of(verdict),
        *([_together(each)] if _many(comparison) else []),
        words.count(max(question.get("sizes") or [0]) or None),
    ]
    if scores["k"] is not None:
        metric = comparison["metric"]
        cells += [_with_interval(scores["rows"][place], metric), _behind(scores, place, metric)]
    return cells


def _many(comparison: Mapping[str, Any]) -> bool:
    return len(comparison["contenders"]) > 2


def _together(contender: Mapping[str, Any]) -> str:
    wide = contender["together"]
    if wide is None:
        return words.DASH
    return interval_of(wide) if wide["status"] == "reached" else words.status_name(wide["status"]).lower()


def joint_sentence(comparison: Mapping[str, Any]) -> str:
    r"""Return at what level all that is claimed of the runs holds together.

    >>> joint_sentence({"joint": {"contenders": 2, "pairs": 1, "level": 0.9, "method": "Bonferroni"}})
    'Two answers are one pair: the claim on it holds at 90\xa0%.'
    """
    joint = comparison["joint"]
    level = words.percent(joint["level"])
    if joint["contenders"] == 2:
        return f"Two answers are one pair: the claim on it holds at {level}."
    return (
        f"All that is claimed holds together at {level} (simultaneous intervals after {joint['method']}): the runs are "
        f"ranked by intervals of k* wide enough for all {joint['contenders']} at once, and differences from the best "
        f"have intervals wide enough for all {joint['pairs']} pairs, since the best is chosen by the same data. The "
        "interval of each run by itself stands beside its k* and is narrower."
    )


def _later_cells(comparison: Mapping[str, Any], place: int) -> list[str]:
    each, ahead = comparison["contenders"][place], comparison["forecast"]
    cells = [_ahead(cell, comparison["metric"]) for cell in (ahead["rows"][place] if ahead["rows"] else [])]
    seconds = words.DASH if each["seconds"] is None else f"{each['seconds']:,.1f}"
    return [*cells, words.count(each["trained_parameters"]), words.count(each["trainings"]), seconds]


def interval_of(verdict: Mapping[str, Any]) -> str:
    """Return the interval of k* without its unit.

    >>> interval_of({"low": 50, "high": None}), interval_of({"low": 50, "high": 200})
    ('50 or more', '50 to 200')
    """
    return " ".join(words.span(verdict.get("low"), verdict.get("high"), unit="").split())


def _copyable(numbers: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables as one, as text for a spreadsheet; a tab or line break in a name would shift its columns."""
    first, second = ([table["headers"], *table["rows"]] for table in numbers)
    rows = [left + right[2:] for left, right in zip(first, second, strict=True)]
    return "\n".join("\t".join(" ".join(cell.split()) for cell in row) for row in rows)


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    if row.get("mean") is None:
        return words.DASH
    low, high = (words.quantity(row[end], metric) for end in ("low", "high"))
    return f"{words.quantity(row['mean'], metric)} ({low} to {high})"


def _ahead(cell: Mapping[str, Any], metric: str) -> str:
    return "too far" if cell["status"] == "too_far" else _with_interval(cell, metric)


def _behind(scores: Mapping[str, Any], place: int, metric: str) -> str:
    if place == scores["best"]:
        return "best"
    behind = scores["rows"][place]["behind"]
    if behind is None:
        return words.DASH
    ends = tables.interval(behind["low"], behind["high"], metric)
    said = f"{words.change(behind['mean'], metric)} ({ends}, {behind['kind']})"
    return said if behind["told"] else f"can't be told: {said}"


def _table_note(comparison: Mapping[str, Any]) -> str:
    parts = [joint_sentence(comparison)]
    if comparison["forecast"]["sizes"]:
        parts.append(
            "Forecasts are made from each run's own sizes; “too far” is more than eight times its largest, where no "
            "interval was ever checked."
        )
    if any(each["seconds"] is None for each in comparison["contenders"]):
        parts.append("A dash: not recorded in that folder.")
    return " ".join(parts)


def summary_lines(comparison: Mapping[str, Any]) -> Sequence[str]:
    """Return what a terminal shows: the verdict, the scores, and what bars a comparison."""
    bars = [f"Different {each['what']}: {each['means']}" for each in comparison["differences"] if each["bars"]]
    told = scores_sentence(comparison)
    return [comparison["verdict"]["sentence"], *([told] if told else []), *bars]
