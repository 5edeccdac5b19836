"""How much the answer depends on luck: the same rule with each order of the data, and each seed, left out."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape.convergence import mean_over_repeats
from stillscape.sufficiency import wording
from stillscape.sufficiency.criteria import ROUND_OFF
from stillscape.sufficiency.doublings import check_sizes, doubling_matrix
from stillscape.sufficiency.rule import first_lasting
from stillscape.sufficiency.worth import break_even_gain


def stability(
    sizes: ArrayLike,
    scores: Float[np.ndarray, "repeats sizes"],
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    *,
    question: Mapping,
    higher_is_better: bool,
) -> dict:
    """Return k* by the question's rule on means over fewer repeats.

    Each of these k* comes from a mean curve without its interval: it says where the rule would have pointed, not
    whether that could have been trusted.

    Args:
        sizes: measured sizes, (K,).
        scores: of the metric, (R, K).
        permutation_ids: order of the data of each repeat, (R,).
        seed_ids: training seed of each repeat, (R,).
        question: with "epsilon", and where there are any "target", "cost_per_image" and "value_per_point".
        higher_is_better: False for losses.

    Returns:
        {"all", "without_order", "without_seed", "alone"}: k* of all repeats; of all but one order, or one seed, by its
        number; and of each order alone. None where the rule finds no k*. Empty where there is but one order, or seed.

    Raises:
        InputError: sizes that are not increasing whole numbers above 0.

    Cost: O(R^2 K).

    >>> scores = np.array([[0.5, 0.9, 0.9], [0.5, 0.6, 0.9]])
    >>> found = stability([10, 20, 40], scores, [0, 1], [0, 0], question={"epsilon": 0.01}, higher_is_better=True)
    >>> found["all"], found["without_order"], found["without_seed"]
    (None, {'0': None, '1': 20}, {})
    """
    k = check_sizes(sizes)
    orders, seeds = np.asarray(permutation_ids), np.asarray(seed_ids)
    signed = np.asarray(scores, dtype=np.float64) * (1 if higher_is_better else -1)

    def found(kept: np.ndarray) -> int | None:
        return _k_star(k, mean_over_repeats(signed[kept], orders[kept]), question, higher_is_better)

    def without(ids: np.ndarray) -> dict[str, int | None]:
        names = np.unique(ids)
        return {str(name): found(ids != name) for name in names} if names.size > 1 else {}

    alone = {str(name): found(orders == name) for name in np.unique(orders)} if np.unique(orders).size > 1 else {}
    everything = found(np.ones(orders.size, dtype=bool))
    return {"all": everything, "without_order": without(orders), "without_seed": without(seeds), "alone": alone}


def stability_sentence(found: Mapping) -> str:
    """Return in words how far k* moves when an order or a seed is left out; empty where nothing could be left out.

    >>> stability_sentence({"without_order": {"0": 100, "1": 200}, "without_seed": {}, "alone": {"0": 200, "1": None}})
    'Without one of the 2 orders of the data, the same rule points to 100 to 200 images; each order alone, to \
200 images or to none of the sizes (1 of 2).'
    """
    parts = []
    for name, lead in (("without_order", "orders of the data"), ("without_seed", "training seeds")):
        if found[name]:
            parts.append(f"without one of the {len(found[name])} {lead}, the same rule points to {_range(found[name])}")
    if found["alone"]:
        parts.append(f"each order alone, to {_range(found['alone'])}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _k_star(k: np.ndarray, mean: np.ndarray, question: Mapping, higher_is_better: bool) -> int | None:
    if question.get("target") is not None:
        goal = question["target"] * (1 if higher_is_better else -1)
        judged, passes = k, mean >= goal - ROUND_OFF
    else:
        judged, _, matrix = doubling_matrix(k)
        tolerance = np.full(judged.size, question["epsilon"])
        if question.get("cost_per_image") is not None and judged.size:
            price = {name: question[name] for name in ("cost_per_image", "value_per_point")}
            tolerance = break_even_gain(judged, **price)
        passes = matrix @ mean <= tolerance + ROUND_OFF
    if not judged.size:
        return None
    at = int(first_lasting(passes))
    return None if at == judged.size else int(judged[at])


def _range(found: Mapping[str, int | None]) -> str:
    sizes = sorted(size for size in found.values() if size is not None)
    missing = len(found) - len(sizes)
    if not sizes:
        return "none of the sizes"
    span = f"{sizes[0]} to {wording.images(sizes[-1])}" if sizes[0] < sizes[-1] else wording.images(sizes[0])
    return span + (f" or to none of the sizes ({missing} of {len(found)})" if missing else "")
