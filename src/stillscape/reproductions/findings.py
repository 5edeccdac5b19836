"""What a reproduction brings home: numbers beside the published ones, claims with a verdict, panels to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from stillscape import _checks
from stillscape._errors import RecordError

SCHEMA = 1
AS_STEEP = 0.15  # slopes so near to -1 are taken for the identity's, whose mean is over few orders
Verdict = Literal["stands", "amended", "falls", "cannot_tell"]
#: What a verdict on a claim means.
VERDICTS: dict[Verdict, str] = {
    "stands": "what was measured agrees with the claim",
    "amended": "true once it is restated, as said beside it",
    "falls": "what was measured contradicts the claim",
    "cannot_tell": "the intervals are too wide, or the set-up can't answer",
}


@dataclass(frozen=True)
class Number:
    """One number with its error bar, beside the published one where there is one.

    Attributes:
        name: what it is, unique within the findings.
        value: measured here; None where there is none.
        low: lower end of its interval; None where repeats give none.
        high: upper end.
        unit: of value, low, high and published; empty for ratios, slopes and counts.
        published: the value in print, or read off a printed figure; None where nothing is in print.
        source: where the published value stands.
        spread: by how much a rerun of the same size and seed may differ, on another machine; absolute.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    published: float | None = None
    source: str = ""
    spread: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A printed claim, and what became of it.

    Attributes:
        statement: the claim, in our words.
        source: where it stands.
        verdict: one of `VERDICTS`.
        reason: the numbers that decide, in a sentence.
    """

    statement: str
    source: str
    verdict: Verdict
    reason: str

    def __post_init__(self) -> None:
        _checks.one_of("verdict", self.verdict, VERDICTS)


@dataclass(frozen=True)
class Line:
    """One curve of a panel.

    Attributes:
        label: of the legend.
        x: one value for each point.
        y: as many; None where there is none.
        low: lower end of a band, or empty.
        high: upper end.
        kind: measured | bound | closed form | published; each is drawn in a way of its own.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    kind: Literal["measured", "bound", "closed form", "published"] = "measured"


@dataclass(frozen=True)
class Panel:
    """Axes with curves.

    Attributes:
        title: plain text.
        x: label of the axis.
        y: label of the axis.
        lines: the curves.
        log: which axes are logarithmic: "", "x", "y" or "xy".
        caption: what to see.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log: str = "xy"
    caption: str = ""


@dataclass(frozen=True)
class Heat:
    """A table of positive numbers, drawn as colors of their logarithms with the numbers written in.

    Attributes:
        title: plain text.
        rows: names.
        columns: names.
        values: one tuple for each row.
        caption: what to see.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Findings:
    """All that one reproduction found.

    Attributes:
        name: of the reproduction.
        size: "full" or "quick".
        settings: everything that decides the numbers.
        numbers: the headline numbers.
        claims: with verdicts.
        panels: of the figure.
        remarks: what differs from the published set-up, in sentences.
        violations: bounds that are proved and were not kept, or identities that failed; must be empty.
        provenance: versions and, for the reader, the time it took; no number hangs on it.
    """

    name: str
    size: str
    settings: Mapping[str, Any]
    numbers: tuple[Number, ...]
    claims: tuple[Claim, ...]
    panels: tuple[Panel | Heat, ...]
    remarks: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Number:
        """Return the number of this name."""
        return next(number for number in self.numbers if number.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: what is not finite becomes None, and a panel says what it is."""
        content = {"schema": SCHEMA, **asdict(self)}
        content["panels"] = [{"is": type(panel).__name__.lower(), **asdict(panel)} for panel in self.panels]
        plain = _plain(content)
        assert isinstance(plain, dict)
        return plain

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Findings":
        """Return findings from what `to_dict` gave.

        Raises:
            RecordError: if it is of another schema or damaged.
        """
        if content.get("schema") != SCHEMA:
            raise RecordError(f"these findings are of schema {content.get('schema')!r}; this version reads {SCHEMA}.")
        try:
            return cls(
                name=content["name"],
                size=content["size"],
                settings=content["settings"],
                numbers=tuple(Number(**number) for number in content["numbers"]),
                claims=tuple(Claim(**claim) for claim in content["claims"]),
                panels=tuple(_panel(dict(panel)) for panel in content["panels"]),
                remarks=tuple(content["remarks"]),
                violations=tuple(content["violations"]),
                provenance=content["provenance"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"these findings are damaged ({error}); run the reproduction again.") from None


def line(label: str, x: Any, y: Any, low: Any = (), high: Any = (), kind: Any = "measured") -> Line:
    """Return a line from arrays.

    >>> line("a", [1, 2], np.array([0.5, float("nan")])).y
    (0.5, None)
    """
    return Line(label, _numbers(x), _numbers(y), _numbers(low), _numbers(high), kind)


def heat(title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, caption: str = "") -> Heat:
    """Return a table to draw from an array, (rows, columns)."""
    return Heat(title, tuple(rows), tuple(columns), tuple(_numbers(row) for row in values), caption)


def slope(x: Sequence[float], y: Sequence[float] | np.ndarray) -> float:
    """Return the least-squares slope of log y against log x.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 12)
    2.0
    """
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])


def late_slope(k: np.ndarray | Sequence[float], mean: np.ndarray | Sequence[float], share: float = 0.1) -> float:
    """Return the slope beyond a share of the sizes, where a mean over orders is no longer that of a few.

    >>> round(late_slope([1, 10, 20, 40], [9.0, 1.0, 0.5, 0.25]), 12)
    -1.0
    """
    sizes, values = np.asarray(k), np.asarray(mean)
    late = sizes >= share * sizes[-1]
    return slope(sizes[late], values[late])


def like_the_identity(slopes: Sequence[float]) -> bool:
    """Return whether there are slopes, and all of them lie near the -1 that holds at any fixed weights."""
    return len(slopes) > 0 and max(abs(one + 1) for one in slopes) < AS_STEEP


def sign(interval: tuple[float, float, float], of: float = 0.0) -> int:
    """Return 1 or -1 where an interval (value, low, high) lies above or below a number, or 0.

    >>> sign((2.0, 1.0, 3.0)), sign((2.0, 1.0, 3.0), of=5.0), sign((2.0, -1.0, 3.0))
    (1, -1, 0)
    """
    _, low, high = interval
    return 1 if low > of else -1 if high < of else 0


def verdict_of(direction: int) -> Verdict:
    """Return what a claim of "more" comes to where the measured direction is `direction`."""
    return "stands" if direction > 0 else "falls" if direction < 0 else "cannot_tell"


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean, lower and upper end of Student's interval; the ends are NaN for a single value.

    >>> tuple(round(end, 2) for end in mean_interval([1.0, 3.0]))
    (2.0, -10.71, 14.71)
    """
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return float(array.mean()), math.nan, math.nan
    half = float(t.ppf((1 + level) / 2, array.size - 1)) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return float(array.mean()), float(array.mean()) - half, float(array.mean()) + half


def measured(name: str, values: Any, **more: Any) -> Number:
    """Return a number from its repeats: their mean with a 95 % interval."""
    return _number(name, mean_interval(np.atleast_1d(np.asarray(values, dtype=np.float64))), more)


def measured_ratio(name: str, values: Any, **more: Any) -> Number:
    """Return a positive number from its repeats: their geometric mean with a 95 % interval of the logarithms."""
    return _number(name, np.exp(mean_interval(np.log(np.atleast_1d(np.asarray(values, dtype=np.float64))))), more)


def _number(name: str, interval: Sequence[float] | np.ndarray, more: dict[str, Any]) -> Number:
    value, low, high = (None if math.isnan(end) else float(end) for end in interval)
    return Number(name, value, low, high, **more)


def _panel(content: dict[str, Any]) -> Panel | Heat:
    if content.pop("is") == "heat":
        values = tuple(tuple(row) for row in content.pop("values"))
        return Heat(**_tuples(content), values=values)
    return Panel(**{**content, "lines": tuple(Line(**_tuples(part)) for part in content["lines"])})


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _numbers(values: Any) -> tuple[Any, ...]:
    return tuple(float(value) if math.isfinite(value) else None for value in np.asarray(values, dtype=np.float64))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
