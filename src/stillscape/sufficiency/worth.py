"""Is the next doubling worth its price? A cost per image and a value per point make a tolerance at every size."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape.sufficiency import wording
from stillscape.sufficiency.criteria import COLLECT, MEASURED, ONE_TRAINING, REPEATS, ROUND_OFF
from stillscape.sufficiency.criterion import Criterion
from stillscape.sufficiency.doublings import check_curve, doubling_matrix, gains
from stillscape.sufficiency.rule import judge

POINT = 0.01


def break_even_gain(sizes: ArrayLike, *, cost_per_image: float, value_per_point: float) -> Float[np.ndarray, " sizes"]:
    r"""Return the gain at which doubling the data from each size pays for itself; above it, going on is worth while.

        value_per_point * gain / 0.01 = cost_per_image * k        (a doubling from k takes k more images)

    Args:
        sizes: images before the doubling, above 0, (K,).
        cost_per_image: of one more image, labeled.
        value_per_point: of 0.01 of the metric, in the same unit.

    Returns:
        gains in the unit of the metric, (K,).

    Raises:
        InputError: a size, cost or value that is not a finite number above zero.

    >>> break_even_gain([100, 200], cost_per_image=2.0, value_per_point=400.0).tolist()
    [0.005, 0.01]
    """
    _checks.positive("cost_per_image", cost_per_image)
    _checks.positive("value_per_point", value_per_point)
    k = _checks.finite_vector("sizes", sizes)
    _checks.positive("sizes", float(k.min()))
    return POINT * cost_per_image * k / value_per_point


def worth_table(steps: list[dict], *, cost_per_image: float, value_per_point: float) -> list[dict]:
    """Return what each doubling cost and brought, in the unit of the cost.

    Args:
        steps: as from `gains`.
        cost_per_image: of one more image.
        value_per_point: of 0.01 of the metric.

    Returns:
        for each doubling {"from", "to", "price", "worth", "worth_low", "worth_high", "break_even"}, the last one in
        the unit of the metric.

    >>> step = {"from": 100, "to": 200, "mean": 0.02, "low": 0.01, "high": 0.03}
    >>> row = worth_table([step], cost_per_image=2.0, value_per_point=400.0)[0]
    >>> row["price"], row["worth"], row["break_even"]
    (200.0, 800.0, 0.005)
    """
    rows = []
    for step in steps:
        even = break_even_gain([step["from"]], cost_per_image=cost_per_image, value_per_point=value_per_point)
        worth = {
            name: value_per_point * step[key] / POINT
            for name, key in (("worth", "mean"), ("worth_low", "low"), ("worth_high", "high"))
        }
        price = float(cost_per_image * step["from"])
        rows.append({"from": step["from"], "to": step["to"], "price": price, **worth, "break_even": float(even[0])})
    return rows


def worth_criterion(
    name: str,
    sizes: ArrayLike,
    draws: Float[np.ndarray, "draws sizes"],
    mean: ArrayLike,
    *,
    cost_per_image: float,
    value_per_point: float,
    level: float,
    higher_is_better: bool,
    repeats_known: bool,
    resolution: float = 0.0,
) -> Criterion:
    r"""Judge from which size on no measured doubling is worth its price.

        k* = min{ judged k : value * G(k') <= cost * k' for every judged k' >= k },   G as in `doubling_matrix`

    with G in points. It is `gain_criterion` with the tolerance of `break_even_gain` at each size; statuses and
    interval as there.

    Args:
        name: of the criterion, "<metric>_worth".
        sizes: measured sizes, (K,).
        draws: bootstrap draws of the curve, (B, K).
        mean: the measured curve, (K,).
        cost_per_image: of one more image, labeled.
        value_per_point: of 0.01 of the metric, in the same unit.
        level: of the interval.
        higher_is_better: False for losses.
        repeats_known: whether the draws hold the noise of training.
        resolution: floor for the half-width of the last gain, as in `gain_criterion`.

    Returns:
        the criterion; its `epsilon` is the break-even gain at k*, or of the last doubling where there is none.

    Raises:
        InputError: shapes that don't fit, a cost or value that is not above zero, or a level outside 0..1.

    Cost: O(B K^2).

    >>> curve = np.array([0.5, 0.8, 0.805, 0.807])
    >>> c = worth_criterion("accuracy_worth", [50, 100, 200, 400], np.tile(curve, (9, 1)), curve, cost_per_image=1.0,
    ...                     value_per_point=100.0, level=0.9, higher_is_better=True, repeats_known=True)
    >>> c.status, c.k_star, c.epsilon
    ('reached', 100, 0.01)
    """
    _checks.fraction("level", level)
    price = {"cost_per_image": cost_per_image, "value_per_point": value_per_point}
    tolerance_at_most = float(break_even_gain([np.max(sizes)], **price)[0])
    steps = gains(sizes, draws, mean, level, higher_is_better)
    if not steps:
        reason = f"the sizes, {np.min(sizes)} to {np.max(sizes)} images, span less than one doubling"
        advice = "try sizes that are twice one another, such as 50, 100, 200, 400"
        return Criterion(name, "cannot_tell", None, None, None, tolerance_at_most, MEASURED, False, reason, advice)
    k, drawn, middle = check_curve(sizes, draws, mean, higher_is_better)
    starts, _, matrix = doubling_matrix(k)
    tolerances = break_even_gain(starts, **price)
    limits = tolerances + ROUND_OFF
    status, k_star, low, high = judge(starts, drawn @ matrix.T <= limits, matrix @ middle <= limits, level)
    last, row = steps[-1], worth_table(steps[-1:], **price)[0]
    said = _priced(name, last, row, level)
    if not repeats_known:
        status, why, advice = "cannot_tell", f"{said}; {ONE_TRAINING}", REPEATS
    elif status == "reached" and resolution > 0 and last["mean"] + resolution > tolerances[-1]:
        hidden = wording.amount(name, last["mean"] + resolution)
        status, why = "cannot_tell", f"{said}; but so few held-out images could hide a gain of {hidden}"
        advice = "more held-out images"
    elif status == "reached":
        why, advice = f"from {wording.images(k_star or 0)} on no measured doubling was worth its price; {said}", ""
    elif status == "not_reached":
        next_price = cost_per_image * int(k[-1])
        needed = wording.amount(name, float(break_even_gain([k[-1]], **price)[0]))
        why = f"{said}, which was worth it"
        advice = f"{COLLECT}. The next doubling costs {_money(next_price)} and pays if it gains more than {needed}"
    else:
        why, advice = f"{said}, too close to say whether it was worth it", "more held-out images and repeats"
    if status != "reached":
        k_star, high = None, None
    at = float(tolerances[-1] if k_star is None else tolerances[starts == k_star][0])
    return Criterion(name, status, k_star, low, high, at, MEASURED, False, why, advice)


def _priced(name: str, step: dict, row: dict, level: float) -> str:
    return (
        f"{wording.doubling(name, step, level)}, worth {_money(row['worth'])} ({_money(row['worth_low'])} to "
        f"{_money(row['worth_high'])}), and cost {_money(row['price'])}"
    )


def _money(amount: float) -> str:
    """Return a sum of money, or of whatever the cost is given in.

    >>> _money(1234.4), _money(0.25), _money(-3.0)
    ('1,234', '0.25', '-3')
    """
    return f"{amount:,.0f}" if abs(amount) >= 100 else f"{amount:.3g}"
