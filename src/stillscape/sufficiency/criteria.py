"""The two rules that read a measured curve: doubling the data no longer helps, and the target is met."""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape.sufficiency import wording
from stillscape.sufficiency.criterion import Criterion
from stillscape.sufficiency.doublings import check_curve, doubling_matrix, gains
from stillscape.sufficiency.rule import judge

_FEW_CHANGES = 4
ROUND_OFF = 1e-12  # 0.91 - 0.90 comes out above 0.01 in floating point; a gain of just epsilon is no more than epsilon

MEASURED = (
    "more data would come from the same source as these images",
    "the held-out images stand for those the model will meet",
    "the training recipe stays as it is",
)


def gain_criterion(
    name: str,
    sizes: ArrayLike,
    draws: Float[np.ndarray, "draws sizes"],
    mean: ArrayLike,
    *,
    epsilon: float,
    level: float,
    higher_is_better: bool,
    repeats_known: bool,
    resolution: float = 0.0,
) -> Criterion:
    r"""Judge from which size on every measured doubling of the data gains at most `epsilon`.

        k* = min{ judged k : G(k') <= epsilon for every judged k' >= k },   G as in `doubling_matrix`

    The same rule on each bootstrap draw gives the interval of k*; a draw without a k* counts as infinite.
    "reached": the mean curve has a k* and so has the draw at the upper quantile. "not_reached": fewer than
    (1 - level) / 2 of the draws have one. "cannot_tell": anything between, and always where the noise of training is
    unknown or nothing was judged. k*, and both ends of its interval, never grow when epsilon grows.

    Args:
        name: of the metric, e.g. "accuracy", "heldout_loss"; it decides the unit in the reason.
        sizes: measured sizes, (K,).
        draws: bootstrap draws of the curve, (B, K), as from `bootstrap_curve`.
        mean: the measured curve, (K,).
        epsilon: tolerance for one doubling, in the unit of the curve.
        level: of the interval.
        higher_is_better: False for losses.
        repeats_known: whether the draws hold the noise of training (two permutations or more).
        resolution: floor for the half-width of the last gain, for held-out sets on which hardly any image changed
            sides, so that the draws show next to no scatter; see `smallest_resolution`.

    Returns:
        the criterion.

    Raises:
        InputError: shapes that don't fit, epsilon not above zero, or a level outside 0..1.

    Cost: O(B K^2).

    >>> curve = np.array([0.5, 0.8, 0.805, 0.807])
    >>> c = gain_criterion("accuracy", [50, 100, 200, 400], np.tile(curve, (9, 1)), curve, epsilon=0.01, level=0.9,
    ...                    higher_is_better=True, repeats_known=True)
    >>> c.status, c.k_star, c.low, c.high
    ('reached', 100, 100, 100)
    """
    _checks.positive("epsilon", epsilon)
    _checks.not_negative("resolution", resolution)
    steps = gains(sizes, draws, mean, level, higher_is_better)
    if not steps:
        reason = f"the sizes, {np.min(sizes)} to {np.max(sizes)} images, span less than one doubling"
        advice = "try sizes that are twice one another, such as 50, 100, 200, 400"
        return Criterion(name, "cannot_tell", None, None, None, epsilon, MEASURED, False, reason, advice)
    k, drawn, middle = check_curve(sizes, draws, mean, higher_is_better)
    starts, _, matrix = doubling_matrix(k)
    limit = epsilon + ROUND_OFF
    status, k_star, low, high = judge(starts, drawn @ matrix.T <= limit, matrix @ middle <= limit, level)
    last = wording.doubling(name, steps[-1], level)
    tolerance = wording.amount(name, epsilon)
    if not repeats_known:
        return _untold(name, epsilon, f"{last}; {ONE_TRAINING}", REPEATS)
    if status == "reached" and resolution > 0 and steps[-1]["mean"] + resolution > epsilon:
        unseen = wording.amount(name, steps[-1]["mean"] + resolution)
        reason = f"{last}; but so few held-out images could hide a gain of {unseen}, and the tolerance is {tolerance}"
        needed = math.ceil(math.log((1 - level) / 2) / math.log1p(-epsilon)) if epsilon < 1 else 1
        advice = f"at least about {needed} independent held-out images, or a larger tolerance"
        return _untold(name, epsilon, reason, advice, low)
    if status == "cannot_tell":
        reason, advice = _why_untold(name, steps[-1], epsilon, last)
        return _untold(name, epsilon, reason, advice, low)
    if status == "not_reached":
        reason = f"{last}, more than the tolerance of {tolerance}"
        return Criterion(name, status, None, low, None, epsilon, MEASURED, False, reason, COLLECT)
    total = wording.amount(name, float(np.asarray(mean)[-1] - np.asarray(mean)[k == k_star][0]), signed=True)
    reason = (
        f"from {wording.images(k_star or 0)} on no measured doubling gained more than {tolerance}; {last}; "
        f"all the way from {k_star} to {wording.images(int(k[-1]))} it changed by {total}"
    )
    return Criterion(name, status, k_star, low, high, epsilon, MEASURED, False, reason)


def target_criterion(
    name: str,
    sizes: ArrayLike,
    draws: Float[np.ndarray, "draws sizes"],
    mean: ArrayLike,
    *,
    target: float,
    level: float,
    higher_is_better: bool,
    repeats_known: bool,
) -> Criterion:
    """Judge from which measured size on the score meets `target` at every measured size.

    k* = min{ measured k : score(k') >= target for every measured k' >= k } (at most the target, for losses); statuses
    and interval as in `gain_criterion`. k* never shrinks when the target gets harder.

    Args:
        name: of the metric; it decides the unit in the reason.
        sizes: measured sizes, (K,).
        draws: bootstrap draws of the curve, (B, K).
        mean: the measured curve, (K,).
        target: the score to meet, in the unit of the curve.
        level: of the interval.
        higher_is_better: False for losses.
        repeats_known: whether the draws hold the noise of training.

    Returns:
        the criterion; its `epsilon` holds the target.

    Raises:
        InputError: shapes that don't fit, a target that is not finite, or a level outside 0..1.

    Cost: O(B K).

    >>> curve = np.array([0.5, 0.8, 0.9])
    >>> c = target_criterion("accuracy", [50, 100, 200], np.tile(curve, (9, 1)), curve, target=0.75, level=0.9,
    ...                      higher_is_better=True, repeats_known=True)
    >>> c.status, c.k_star
    ('reached', 100)
    """
    _checks.fraction("level", level)
    goal = float(_checks.finite_vector("target", [target])[0]) * (1 if higher_is_better else -1)
    k, drawn, middle = check_curve(sizes, draws, mean, higher_is_better)
    meets = middle >= goal - ROUND_OFF
    status, k_star, low, high = judge(k, drawn >= goal - ROUND_OFF, meets, level)
    best = _best_so_far(name, k, drawn, mean, level, higher_is_better)
    wanted = wording.value(name, target)
    if not repeats_known:
        return _untold(name, target, f"{best}; {ONE_TRAINING}", REPEATS)
    if status == "cannot_tell":
        reason = f"{best}, and the target of {wanted} is within reach of that noise"
        return _untold(name, target, reason, "more held-out images and repeats", low)
    if status == "not_reached":
        reason = f"{best}, short of the target of {wanted}"
        steps = gains(sizes, draws, mean, level, higher_is_better)
        advice = COLLECT if _may_get_there(goal - middle[-1], steps) else _CHANGE_MODEL
        return Criterion(name, status, None, low, None, target, MEASURED, False, reason, advice)
    already = "already at the smallest size tried, " if k_star == k[0] else "at "
    reason = f"the target of {wanted} is met {already}{wording.images(k_star or 0)}, and at every larger size; {best}"
    return Criterion(name, status, k_star, low, high, target, MEASURED, False, reason)


def smallest_resolution(num_groups: int, level: float) -> float:
    r"""Return the largest change of a share that could hide behind no change on any held-out unit.

        r = 1 - ((1 - level) / 2)^(1 / n)        (the zero-count limit of Clopper and Pearson; about 3 / n at 90 %)

    A bootstrap of images that all came out right shows no scatter at all; this is what it can't know.

    Args:
        num_groups: independent held-out units: images, or groups of them.
        level: of the interval.

    Returns:
        a share, 0..1.

    Raises:
        InputError: no unit, or a level outside 0..1.

    Cost: O(1).

    >>> round(smallest_resolution(300, 0.9), 4)
    0.0099
    """
    _checks.at_least("num_groups", num_groups, 1)
    _checks.fraction("level", level)
    return float(-np.expm1(np.log((1 - level) / 2) / num_groups))


def hidden_change(change: Float[np.ndarray, " images"], codes: ArrayLike, level: float) -> float:
    """Return how large a change of a share could hide where hardly any held-out unit changed; 0 where enough did.

    Under `_FEW_CHANGES` changed units a bootstrap's scatter says little, and `smallest_resolution` takes over.

    Args:
        change: of each image, (n,).
        codes: of images that belong together, (n,).
        level: of the interval.
    """
    units = np.asarray(codes)
    changed = np.unique(units[np.abs(change) > ROUND_OFF]).size
    return smallest_resolution(np.unique(units).size, level) if changed < _FEW_CHANGES else 0.0


COLLECT = (
    "collect more images, to begin with about twice as many in all, and run again; "
    "how many will do in the end can be forecast from these sizes, but not measured"
)
_CHANGE_MODEL = (
    "train more of the model, or choose another one; more images like these are unlikely to get there, since three "
    "more doublings at the pace of the last one, that is eight times the data, would still fall short"
)
REPEATS = "at least 2, better 5 repeats, each with another choice of training images"
ONE_TRAINING = "but it comes from a single choice of training images, and how much another would change it is unknown"


def _may_get_there(gap: float, steps: list[dict]) -> bool:
    # Gains mostly shrink from doubling to doubling, so three at the upper end of the last one's interval are generous.
    return not steps or gap <= 3 * max(steps[-1]["high"], 0.0)


def _why_untold(name: str, step: dict, epsilon: float, last: str) -> tuple[str, str]:
    half_width = (step["high"] - step["low"]) / 2
    tolerance, wide_enough = wording.amount(name, epsilon), wording.amount(name, wording.round_up(step["high"]))
    if half_width > epsilon:
        more = wording.round_up((half_width / epsilon) ** 2)
        reason = (
            f"{last}; the tolerance of {tolerance} is smaller than the noise, which is plus or minus "
            f"{wording.amount(name, half_width)}"
        )
        return reason, (
            f"about {more:g} times as many held-out images and repeats, or a tolerance of at least {wide_enough}, "
            "the smallest that this run could have confirmed"
        )
    reason = f"{last}, too close to the tolerance of {tolerance} to say on which side of it"
    return reason, f"more held-out images and repeats, or a tolerance of at least {wide_enough}"


def _best_so_far(
    name: str, k: np.ndarray, drawn: np.ndarray, mean: ArrayLike, level: float, higher_is_better: bool
) -> str:
    sign = 1 if higher_is_better else -1
    low, high = np.sort(sign * np.quantile(drawn[:, -1], [(1 - level) / 2, (1 + level) / 2]))
    return (
        f"at {wording.images(int(k[-1]))} {wording.noun(name)} is {wording.value(name, np.asarray(mean)[-1])} "
        f"({wording.percent(level)} interval: {wording.value(name, low)} to {wording.value(name, high)})"
    )


def _untold(name: str, epsilon: float, reason: str, advice: str, low: int | None = None) -> Criterion:
    return Criterion(name, "cannot_tell", None, low, None, epsilon, MEASURED, False, reason, advice)
