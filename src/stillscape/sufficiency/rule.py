"""The rule that all measured criteria share: from which size on it holds at every size, and how sure that is."""

import numpy as np
from jaxtyping import Bool, Int


def judge(
    judged: Int[np.ndarray, " sizes"],
    passes: Bool[np.ndarray, "draws sizes"],
    mean_passes: Bool[np.ndarray, " sizes"],
    level: float,
) -> tuple[str, int | None, int | None, int | None]:
    """Return status, k*, low and high from what passes on the mean curve and on each draw.

    "reached": there is a k* on the mean curve and at the upper quantile of the draws; "not_reached": fewer than
    (1 - level) / 2 of the draws have one; "cannot_tell": anything between.

    Args:
        judged: sizes.
        passes: whether each draw passes at each size.
        mean_passes: whether the mean curve does.
        level: of the interval.

    Returns:
        status, and k*, low, high where there are any.

    Cost: O(draws * sizes).

    >>> judge(np.array([5, 9]), np.array([[False, True]] * 8), np.array([False, True]), 0.9)
    ('reached', 9, 9, 9)
    """
    found = first_lasting(passes)
    tail = (1 - level) / 2
    # Positions, not sizes, go through the quantile: "none" is the position after the last and needs no infinity.
    low, high = np.quantile(found, [tail, 1 - tail], method="inverted_cdf").astype(int)
    at = int(first_lasting(mean_passes))
    none = judged.size
    if at < none and high < none:
        # The rule takes a maximum over sizes, so noise shifts the draws upward; the interval still has to hold k*.
        return "reached", int(judged[at]), int(judged[min(low, at)]), int(judged[max(high, at)])
    if np.mean(found < none) < tail:
        return "not_reached", None, None, None
    return "cannot_tell", None, int(judged[low]) if low < none else None, None


def first_lasting(passes: Bool[np.ndarray, "... sizes"]) -> Int[np.ndarray, "..."]:
    """Return the first position from which on all pass; the number of positions where the last one fails.

    >>> first_lasting(np.array([[True, False, True], [True, True, False]])).tolist()
    [2, 3]
    """
    lasting = np.logical_and.accumulate(passes[..., ::-1], axis=-1)
    return passes.shape[-1] - lasting.sum(axis=-1)
