"""Which classes are short of data: what the last doubling did to the recall of each."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import ndtri

from stillscape.convergence import bootstrap_curve, mean_over_repeats, repeats_known
from stillscape.sufficiency import wording
from stillscape.sufficiency.criteria import ROUND_OFF, hidden_change
from stillscape.sufficiency.doublings import doubling_matrix

_NAMED = 5


def class_statuses(
    hits: Float[np.ndarray, "repeats sizes images"],
    labels: Int[np.ndarray, " images"],
    classes: Sequence[str],
    *,
    sizes: ArrayLike,
    groups: ArrayLike | None,
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    epsilon: float,
    level: float,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict]:
    """Tell for each class whether doubling the data still raises its recall.

    "short": the last doubling gained more than `epsilon`, beyond the noise; "enough": it did not, beyond the noise;
    "cannot_tell": anything between, too few held-out images, a single permutation, or no doubling. Statuses hold for
    all classes together: each gain's interval is widened to the level 1 - (1 - level) / C, as a normal's would be. It
    is the whole of the data that was doubled, each class in its share, and so is what a short class is short of.

    Args:
        hits: whether each prediction was right, (R, K, n).
        labels: class numbers, (n,).
        classes: names.
        sizes: measured sizes, of all classes together, (K,).
        groups: (n,) codes of held-out images that belong together, or None.
        permutation_ids: (R,).
        seed_ids: (R,).
        epsilon: tolerance on the gain in recall.
        level: of bands and, over all classes, of statuses.
        draws: bootstrap draws for each class.
        seed: of the draws.

    Returns:
        for each class {"class", "count", "k", "recall", "low", "high", "gain": {"from", "to", "mean", "low", "high"}
        or None, "status"}; recall and band hold None where there is no image.

    Cost: that of one `bootstrap_curve` over all images.
    """
    codes = np.arange(labels.size) if groups is None else np.asarray(groups)
    k = np.asarray(sizes).tolist()
    wider = 1 - (1 - level) / len(classes)
    found = []
    for number, name in enumerate(classes):
        mine = np.flatnonzero(labels == number)
        row = {"class": name, "count": int(mine.size), "k": k, "gain": None, "status": "cannot_tell"}
        empty: list[float | None] = [None] * len(k)
        if not mine.size:
            found.append({**row, "recall": empty, "low": empty, "high": empty})
            continue
        values, own = np.asarray(hits[:, :, mine], dtype=np.float64), codes[mine]
        mean = mean_over_repeats(values.mean(axis=2), permutation_ids)
        row |= {"recall": mean.tolist(), "low": empty, "high": empty}
        if np.unique(own).size > 1:
            drawn = bootstrap_curve(values, own, permutation_ids, seed_ids, draws, seed)
            ends = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0), 0, 1)
            row |= {"low": np.minimum(ends[0], mean).tolist(), "high": np.maximum(ends[1], mean).tolist()}
            row["gain"] = _last_gain(k, drawn, mean, values, own, permutation_ids, level, wider)
            if row["gain"] is not None and repeats_known(permutation_ids):
                row["status"] = _status(row["gain"], epsilon)
        found.append(row)
    return found


def classes_sentence(rows: Sequence[Mapping], epsilon: float, *, level: float) -> str:
    """Return which classes are short of data, as one sentence; nothing where none has a status.

    >>> rows = [{"class": "moss", "status": "short"}, {"class": "rust", "status": "enough"}]
    >>> classes_sentence(rows, 0.01, level=0.9).partition(": ")[2]
    'the last doubling still raised recall by more than 1 point for moss, not for rust.'
    """
    named = {status: [row["class"] for row in rows if row["status"] == status] for status in _SAID}
    parts = []
    if named["short"]:
        gained = f"the last doubling still raised recall by more than {wording.amount('recall', epsilon)}"
        parts.append(f"{gained} for {_list(named['short'])}")
    if named["enough"]:
        gained = f"the last doubling raised recall by no more than {wording.amount('recall', epsilon)}"
        parts.append(f"not for {_list(named['enough'])}" if parts else f"{gained} for {_list(named['enough'])}")
    if named["cannot_tell"]:
        parts.append(f"it can't be told for {_list(named['cannot_tell'])}, which would need more held-out images")
    if not parts:
        return ""
    return f"By class, at {wording.percent(level)} confidence over all classes: {', '.join(parts)}."


_SAID = ("short", "enough", "cannot_tell")


def _last_gain(
    k: Sequence[int],
    drawn: np.ndarray,
    mean: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    permutation_ids: ArrayLike,
    level: float,
    wider: float,
) -> dict | None:
    starts, ends, matrix = doubling_matrix(k)
    if not starts.size:
        return None
    gain = float(matrix[-1] @ mean)
    low, high = np.quantile(drawn @ matrix[-1], [(1 - level) / 2, (1 + level) / 2]) - gain
    stretch = float(ndtri((1 + wider) / 2) / ndtri((1 + level) / 2))
    change = matrix[-1] @ mean_over_repeats(values, permutation_ids)
    floor = hidden_change(change, codes, wider)
    return {
        "from": int(starts[-1]),
        "to": int(ends[-1]),
        "mean": gain,
        "low": gain + min(stretch * float(low), -floor),
        "high": gain + max(stretch * float(high), floor),
    }


def _status(gain: Mapping, epsilon: float) -> str:
    if gain["low"] > epsilon:
        return "short"
    return "enough" if gain["high"] <= epsilon + ROUND_OFF else "cannot_tell"


def _list(names: Sequence[str]) -> str:
    shown, more = list(names[:_NAMED]), len(names) - _NAMED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
