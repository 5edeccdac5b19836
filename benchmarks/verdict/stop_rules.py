"""Rules that say when to stop collecting, each a number at every size: stop where it is at most the threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from rivals import Fitter, mahmood_fitters

from stillscape.sufficiency.beyond import outlook_beyond
from stillscape.sufficiency.data_curve import believe, to_scores

LOSES_LITTLE = 0.005  # half a point
QUESTION = {"level": 0.9, "epsilon": 0.01, "target": None}


@dataclass(frozen=True)
class Sweep:
    """One task.

    Attributes:
        name: of the task.
        cluster: data set and question; tasks that share both are no independent evidence.
        sizes: (K,).
        accuracy: means over seeds for each order, (K, P).
        mad: mean absolute deviation of held-out losses at each size, (K,).
        agreement: share of held-out images named alike at this size and the one before, (K,); the first is 0.
        seconds: that training and scoring took at each size, all orders and seeds, (K,).
    """

    name: str
    cluster: str
    sizes: np.ndarray
    accuracy: np.ndarray
    mad: np.ndarray
    agreement: np.ndarray
    seconds: np.ndarray


Rule = Callable[[Sweep, int], float]


@cache
def _next_doubling(sizes: tuple[int, ...], accuracy: bytes, orders: int) -> dict[str, float]:
    table = np.frombuffer(accuracy).reshape(len(sizes), orders)
    found = outlook_beyond("accuracy", np.array(sizes), table.T, QUESTION)
    assert found is not None
    return found[0]["next_doubling"]


@cache
def _to_the_end(sizes: tuple[int, ...], accuracy: bytes, orders: int, end: float) -> np.ndarray:
    """Return what each curve that is believed possible gains up to the size `end`."""
    table = np.frombuffer(accuracy).reshape(len(sizes), orders)
    paths = believe(np.array(sizes), table, "score").paths(np.array([sizes[-1], end], dtype=np.float64))
    scores = to_scores(np.exp(paths), "score")
    return scores[:, 1] - scores[:, 0]


def _seen(sweep: Sweep, at: int) -> tuple[tuple[int, ...], bytes, int]:
    table = np.ascontiguousarray(sweep.accuracy[: at + 1])
    return tuple(sweep.sizes[: at + 1].tolist()), table.tobytes(), table.shape[1]


def _rest(sweep: Sweep, at: int) -> np.ndarray:
    return _to_the_end(*_seen(sweep, at), float(sweep.sizes[-1]))


def _last_doubling(sweep: Sweep, at: int) -> float:
    """Return what the last doubling brought; sizes go in steps of the square root of two."""
    means = sweep.accuracy.mean(axis=1)
    return float(means[at] - means[at - 2])


def _fitted(fitter: Fitter) -> Rule:
    """Return the gain up to the end that a fit promises; its correction tau is what the threshold lacks to eps."""

    def rule(sweep: Sweep, at: int) -> float:
        means = sweep.accuracy.mean(axis=1)
        fit = fitter(sweep.sizes[: at + 1].astype(np.float64), np.maximum(1 - means[: at + 1, None], 1e-9))
        return float(1 - fit.at(sweep.sizes[-1:].astype(np.float64))[0, 0] - means[at])

    return rule


def forget() -> None:
    """Forget what was computed, so that it takes its time again."""
    _next_doubling.cache_clear()
    _to_the_end.cache_clear()


#: What the forecast itself says, with no threshold chosen by its success.
UNTUNED = "stillscape: upper end of the gain of all the rest, at half a point"
_SMALL = np.geomspace(0.0005, 0.08, 40)
#: By name: what is compared with the threshold at each size, and thresholds to try. Sixteen tasks had these.
RULES: dict[str, tuple[Rule, np.ndarray]] = {
    "stillscape: expected gain of the next doubling": (
        lambda s, at: _next_doubling(*_seen(s, at))["mean"], np.geomspace(0.001, 0.08, 40)
    ),
    "stillscape: upper end of the next doubling's gain": (
        lambda s, at: _next_doubling(*_seen(s, at))["high"], np.geomspace(0.002, 0.15, 40)
    ),
    "measured gain of the last doubling": (_last_doubling, _SMALL),
    "prediction stability (Bloodgood 2009)": (lambda s, at: 1 - s.agreement[at], np.geomspace(0.002, 0.4, 40)),
    "fixed surface, MAD / k (the null)": (lambda s, at: s.mad[at] / s.sizes[at], np.geomspace(1e-5, 0.02, 60)),
    "a fixed size": (lambda s, at: float(s.sizes[-1] / s.sizes[at]), np.sqrt(2.0) ** np.arange(11)),
}  # fmt: skip

#: With those that know how much data there is in all, and ask what the rest of it would bring.
RULES_TO_THE_END: dict[str, tuple[Rule, np.ndarray]] = {
    "stillscape: expected gain of all the rest": (lambda s, at: float(_rest(s, at).mean()), _SMALL),
    "stillscape: upper end of the gain of all the rest": (
        lambda s, at: float(np.quantile(_rest(s, at), 0.95)), np.geomspace(0.001, 0.15, 40)
    ),
    UNTUNED: (lambda s, at: float(np.quantile(_rest(s, at), 0.95)), np.array([LOSES_LITTLE])),
    **{
        f"{name}'s gain of all the rest, corrected (Mahmood 2022)": (
            _fitted(fitter), LOSES_LITTLE - np.arange(-0.02, 0.0201, 0.0005)[::-1]
        )
        for name, fitter in mahmood_fitters().items()
    },
}  # fmt: skip
