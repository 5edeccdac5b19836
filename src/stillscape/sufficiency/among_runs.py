"""Which of several answers needs the fewest images, as far as their intervals can tell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import norm

from stillscape.sufficiency import wording

MOST_TOGETHER = 12  # intervals that a result holds wide enough; beyond it too few of 1000 draws decide their ends


def level_together(level: float, intervals: int) -> float:
    """Return the level that each of several intervals must have for all to hold together at `level` (Bonferroni).

    >>> level_together(0.9, 4)
    0.975
    """
    return 1 - (1 - level) / intervals


def widening(level: float, pairs: int) -> float:
    """Return how many times as wide an interval of a difference must be for those of all pairs to hold together.

    Bonferroni's, for errors that are about normal: z(1 - a / (2 pairs)) / z(1 - a / 2) with a = 1 - `level`.

    >>> widening(0.9, 1), round(widening(0.9, 3), 3)
    (1.0, 1.294)
    """
    tail = (1 - level) / 2
    return float(norm.isf(tail / pairs) / norm.isf(tail))


@dataclass(frozen=True)
class Answer:
    """What one way of training found, as far as its k* is concerned.

    Attributes:
        status: "reached", "not_reached" or "cannot_tell".
        low: lower end of the interval of k*, where it is reached.
        high: its upper end.
        more_than: largest size that was judged; where it is not reached, k* lies above it.
    """

    status: str
    low: float | None
    high: float | None
    more_than: float | None


def answer_of(entry: Mapping, question: Mapping, contenders: int = 2) -> Answer | None:
    """Read the answer of one adaptation from a result.

    Of two intervals that do not meet, only one claim is made, which each at its own level bears. Of more, all
    intervals must hold together: then the one at the level for so many is read (`level_together`); None where the
    result, of an earlier version, holds none, or there are more than `MOST_TOGETHER`.

    A gain is judged up to half of the largest size only, since its doubling must have been measured; a target at
    every size. What lies above the last judged size is not known, so a "not reached" says no more than that.

    >>> entry = {"verdict": {"status": "not_reached"}, "gains": [{"from": 50, "to": 100}, {"from": 100, "to": 200}]}
    >>> answer_of(entry, {"sizes": [50, 100, 200], "target": None}).more_than
    100
    >>> answer_of(entry, {"sizes": [50, 100, 200], "target": 0.9}).more_than
    200
    """
    verdict = entry.get("verdict") or {}
    if contenders > 2:
        wide = next((row for row in entry.get("joint") or [] if row["intervals"] == contenders), None)
        if wide is None and verdict.get("status") in ("reached", "not_reached"):
            return None
        verdict = wide or {}
    judged = [step["from"] for step in entry.get("gains") or []]
    if question.get("target") is not None:
        judged = list(question.get("sizes") or [])
    return Answer(
        verdict.get("status") or "cannot_tell", verdict.get("low"), verdict.get("high"), max(judged, default=None)
    )


def needs_fewer(one: Answer, other: Answer) -> bool:
    """Tell whether `one` needs fewer images than `other`: its interval ends before the other's begins.

    Two intervals that each hold with the level asked for, and that do not meet, differ at that level or better.
    Intervals that meet, even in one size, leave it open.

    >>> a, b = Answer("reached", 50, 100, 200), Answer("reached", 200, 400, 400)
    >>> needs_fewer(a, b), needs_fewer(b, a)
    (True, False)
    >>> needs_fewer(a, Answer("reached", 100, 100, 200))
    False
    >>> needs_fewer(a, Answer("not_reached", None, None, 100)), needs_fewer(a, Answer("not_reached", None, None, 50))
    (True, False)
    """
    if one.status != "reached" or one.high is None:
        return False
    if other.status == "reached":
        return other.low is not None and one.high < other.low
    # it is not reached up to and with its last judged size, so that k* is larger than that
    return other.status == "not_reached" and other.more_than is not None and one.high <= other.more_than


def fewest(answers: Sequence[Answer]) -> list[int]:
    """Return places of those that none of the others is sure to beat, in order: one where it can be told, else more.

    Cost: O(len(answers)^2).

    >>> fewest([Answer("reached", 50, 100, 200), Answer("cannot_tell", None, None, 200)])
    [0, 1]
    >>> fewest([Answer("reached", 50, 100, 200), Answer("not_reached", None, None, 400)])
    [0]
    """
    return [
        place
        for place, own in enumerate(answers)
        if not any(needs_fewer(other, own) for at, other in enumerate(answers) if at != place)
    ]


def score_difference(one: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    r"""Return the difference of two scores measured apart, (mean, low, high) each, with its interval.

        low = d - sqrt((m_1 - l_1)^2 + (h_2 - m_2)^2),   high = d + sqrt((h_1 - m_1)^2 + (m_2 - l_2)^2)

    as for independent errors. Errors on the same held-out images go together, and the true interval is narrower: this
    one may call two scores alike that are not, and seldom the other way round.

    >>> score_difference((0.9, 0.87, 0.93), (0.8, 0.76, 0.84))
    (0.1, 0.05, 0.15)
    """
    mean = one[0] - other[0]
    down = math.hypot(one[0] - one[1], other[2] - other[0])
    up = math.hypot(one[2] - one[0], other[0] - other[1])
    return round(mean, 12), round(mean - down, 12), round(mean + up, 12)


def in_a_list(names: Sequence[str]) -> str:
    """Return names as one says them.

    >>> in_a_list(["a"]), in_a_list(["a", "b"]), in_a_list(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence_among(labels: Sequence[str], answers: Sequence[Answer], level: float) -> tuple[str, str]:
    """Return status and sentence: "told", "cannot_tell" or "none_reached".

    Args:
        labels: of the answers.
        answers: of more than two, with intervals that hold together.
        level: at which they do.

    >>> two = [Answer("reached", 50, 100, 200), Answer("reached", 200, 400, 400)]
    >>> sentence_among(["A", "B"], two, 0.9)[0]
    'told'
    """
    reached = [place for place, answer in enumerate(answers) if answer.status == "reached"]
    if not reached:
        return (
            "none_reached",
            "None of these runs shows that there is enough yet, so none can be said to need the fewest.",
        )
    unbeaten = fewest(answers)
    sure = wording.percent(level) if len(answers) == 2 else f"joint {wording.percent(level)}"
    if len(unbeaten) == 1:
        best = answers[unbeaten[0]]
        return "told", (
            f"{labels[unbeaten[0]]} needs the fewest images: its {sure} interval ends at "
            f"{wording.images(int(best.high or 0))}, before that of any other begins."
        )
    names = in_a_list([labels[place] for place in unbeaten])
    beaten = len(answers) - len(unbeaten)
    more = f" The other {'one needs' if beaten == 1 else f'{beaten} need'} more than one of these." if beaten else ""
    met = [place for place in unbeaten if answers[place].status == "reached"]
    open_ones = [labels[place] for place in unbeaten if answers[place].status != "reached"]
    reasons = [f"the {sure} intervals of {in_a_list([labels[p] for p in met])} overlap"] if len(met) > 1 else []
    if open_ones:
        reasons.append(f"what {in_a_list(open_ones)} would need is not known well enough")
    why = ", and ".join(reasons)
    return "cannot_tell", f"Which of {names} needs the fewest images can't be told: {why}.{more}"
