"""The page of all reproductions in Markdown, and the headers of their plans: written from findings, never by hand."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from stillscape.report.words import number
from stillscape.reproductions.findings import VERDICTS, Claim, Findings, Number
from stillscape.reproductions.run import CATALOGUE

WORDS = {"stands": "stands", "amended": "needs an amendment", "falls": "falls", "cannot_tell": "cannot tell"}
PRINTED = {
    "holds": "hold as printed",
    "fails": "fail as printed",
    "vacuous": "ask for what can't be",
    "undefined": "are not there, or not well defined, as printed",
}
SHOWN = 3  # numbers in the header of a plan
INTRODUCTION = """# Reproductions

Published figures and claims that this library comes from, built again, with the published numbers beside ours. This
page is written by `python -m scripts.reproductions` from the findings in [reproductions/](reproductions/); nothing in
it is typed in.

    stillscape reproduce --list
    stillscape reproduce growth-rates --out runs/growth-rates
    stillscape reproduce vit --assets FOLDER            # what needs weights or data says which, and how to make them
    stillscape reproduce plans/reproduce-base.toml      # the settings of a plan, which you may change

Intervals are 95 % unless said otherwise. A verdict is one of four: """


def page(all_found: Mapping[str, Findings], audit: Mapping[str, Any]) -> str:
    """Return the page for the findings of full size, by name, and what `stillscape audit --json` says."""
    parts = [INTRODUCTION + "; ".join(f"**{WORDS[key]}** ({meaning})" for key, meaning in VERDICTS.items()) + ".\n"]
    parts.append("## For a reviewer: which claims stand\n")
    parts.append("| claim | where | verdict |\n|---|---|---|\n" + "".join(_summary(all_found)))
    parts.append(_counts(audit))
    for name, reproduction in CATALOGUE.items():
        parts.append(f"## {name}: {_lower(reproduction.title)}\n")
        if name in all_found:
            parts += _one(all_found[name])
        else:
            parts.append("Not run at full size yet.\n")
    parts.append(_statements(audit))
    return "\n".join(parts)


def _counts(audit: Mapping[str, Any]) -> str:
    """Say how many of the printed statements hold."""
    counts = Counter(statement["verdict"] for statement in audit["statements"])
    said = ", ".join(f"{counts[verdict]} {words}" for verdict, words in PRINTED.items() if counts[verdict])
    holding = sum(statement["corrected_holds"] for statement in audit["statements"])
    return (
        f"Of {len(audit['statements'])} statements of the drafts and of what was added to complete them: {said}. "
        f"Mended, {holding} hold, each checked on up to {audit['draws']:,} random cases; the table is [at the "
        "end](#the-formulas-statement-by-statement).\n"
    )


def _statements(audit: Mapping[str, Any]) -> str:
    rows = "".join(
        f"| {s['number']} | {s['where']} | {_cell(s['printed'])} | {s['verdict']} | {_cell(s['corrected'])} | "
        f"{_cell(s['corrected_evidence'])} |\n"
        for s in audit["statements"]
    )
    return (
        "## The formulas, statement by statement\n\nFrom `stillscape audit`, which computes it anew; numbers are "
        "those of [theory.md](theory.md).\n\n| | where | as printed | it | mended | what that survived "
        f"|\n|---|---|---|---|---|---|\n{rows}"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def header(found: Findings, quick: Findings | None) -> str:
    """Return the header of a plan: command, what to expect with its spread, and the time it took."""
    reproduction = CATALOGUE[found.name]
    lines = [
        f"{reproduction.title} ({reproduction.source}).",
        f"    stillscape reproduce {found.name} --out runs/{found.name}",
    ]
    if reproduction.needs:
        lines.append(f"Needs {reproduction.needs}.")
    lines.append("Expected:")
    lines += [f"    {n.name}: {value_in_words(n)} (a rerun within {number(n.spread)})" for n in _headline(found)]
    lines.append(f"Took {_minutes(found)} on {found.provenance['machine']}, beside other work.")
    if quick is not None:
        lines.append(f"The quick size (--quick) took {quick.provenance['seconds']:g} s.")
    return "\n".join(lines)


def _headline(found: Findings) -> list[Number]:
    beside = [n for n in found.numbers if n.published is not None and n.value is not None]
    return (beside + [n for n in found.numbers if n.value is not None and n not in beside])[:SHOWN]


def _summary(all_found: Mapping[str, Findings]) -> Iterator[str]:
    for name in CATALOGUE:
        for claim in all_found[name].claims if name in all_found else ():
            yield f"| {_cell(claim.statement)} | {claim.source} | [{WORDS[claim.verdict]}](#{_anchor(name)}) |\n"


def _anchor(name: str) -> str:
    title = f"{name}: {_lower(CATALOGUE[name].title)}".lower()
    return "".join(c for c in title if c.isalnum() or c in " -").replace(" ", "-")


def _one(found: Findings) -> Iterator[str]:
    reproduction = CATALOGUE[found.name]
    took = f"It took {_minutes(found)} on {found.provenance['machine']}."
    needs = f" It needs {reproduction.needs}." if reproduction.needs else ""
    yield f"{reproduction.source}. `stillscape reproduce {found.name}`.{needs} {took}\n"
    for claim in found.claims:
        yield _claim(claim)
    yield f"![{reproduction.title}](reproductions/{found.name}.svg)\n"
    captions = dict.fromkeys(panel.caption for panel in found.panels if panel.caption)
    if captions:
        yield " ".join(captions) + "\n"
    yield "| what | here | published |\n|---|---|---|\n" + "".join(
        f"| {_cell(n.name)} | {value_in_words(n)} | {_published(n)} |\n" for n in found.numbers
    )
    for remark in found.remarks:
        yield f"- {remark}\n"


def _claim(claim: Claim) -> str:
    return f"- **{_capital(WORDS[claim.verdict])}.** {claim.statement} *({claim.source})* {_capital(claim.reason)}\n"


def value_in_words(n: Number) -> str:
    """Return a number with its interval and unit."""
    if n.value is None:
        return "none"
    unit = f" {n.unit}" if n.unit else ""
    if n.low is None or n.high is None:
        return f"{number(n.value)}{unit}"
    return f"{number(n.value)} ({number(n.low)} to {number(n.high)}){unit}"


def _published(n: Number) -> str:
    return "" if n.published is None else f"{number(n.published)} ({n.source})"


def _minutes(found: Findings) -> str:
    seconds = float(found.provenance["seconds"])
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
