"""The small ruler on each card: where k* and its interval lie among the measured sizes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stillscape.report import words


def ruler(sizes: Sequence[float], verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return positions in percent of a logarithmic ruler from the smallest to the largest size.

    Args:
        sizes: measured sizes, images.
        verdict: k_star, low, high; null where there is none.

    Returns:
        "ticks" [(percent, label)], "at", "left" and "width" in percent (None without k*), "open" where the interval
        has no upper end; None if there are fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        return None
    low, high = math.log(min(sizes)), math.log(max(sizes))

    def place(size: float) -> float:
        return round(100 * min(1.0, max(0.0, (math.log(size) - low) / (high - low))), 2)

    ticks = [(place(size), words.count(size)) for size in sorted(set(sizes))]
    shown = [ticks[-1]]
    for tick in ticks[-2::-1]:
        if shown[-1][0] - tick[0] >= 12:
            shown.append(tick)
    k_star = verdict.get("k_star")
    if k_star is None:
        return {"ticks": shown[::-1], "at": None, "left": None, "width": None, "open": False}
    left, right = place(verdict.get("low") or k_star), place(verdict.get("high") or max(sizes))
    return {
        "ticks": shown[::-1],
        "at": place(k_star),
        "left": left,
        "width": round(right - left, 2),
        "open": verdict.get("high") is None,
    }
