"""How sure a data curve is: held-out images and training repeats drawn anew, paired over all sizes."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from stillscape import _checks
from stillscape._errors import InputError

Score = Callable[[np.ndarray], np.ndarray] | Float[np.ndarray, "repeats sizes images"]
"""Values (repeats, sizes, images) whose mean over the images is the score; or weights (images,) -> (repeats, sizes)."""

_IMAGES_AT_ONCE = 2_000_000  # weights held in memory at a time


def bootstrap_curve(
    score: Score,
    groups: ArrayLike | None,
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    draws: int = 1000,
    seed: int = 0,
    *,
    heldout: Float[np.ndarray, "draws sizes"] | None = None,
) -> Float[np.ndarray, "draws sizes"]:
    r"""Draw data curves that scatter around the measured one as it scatters around the truth.

    Two sources of noise are added, each with Student's tails for its number of units:

        draw_b = mean + t_G * (images_b - mean) + sqrt(P / (P - 1)) * t_P * (permutations_b - mean)

    *Held-out images*: groups of images (single images where `groups` is None) are drawn with replacement, with the
    same weights at all sizes and repeats. *Training*: the P permutations of the training data, each with all of its
    seeds, are reweighted by Gaussian multipliers, the same at all sizes. So any difference between two sizes is
    paired in both. The factor sqrt(P / (P - 1)) keeps the variance from shrinking at few permutations, and
    t_d = sqrt((d - 1) / chi2_{d-1}) turns a Gaussian into Student's t with d - 1 degrees of freedom: with Gaussian
    effects of the permutations the quantiles of any paired difference are exactly Student's interval.

    Resampled permutations would have the same variance, but with 3 to 5 of them a 90 % interval covers only 75 to 83 %.
    Seeds are taken as nested: a new permutation brings new seeds, so the scatter over permutations already holds
    theirs, and drawing them again would count it twice. Noise that belongs to an image *and* a permutation is counted
    in both sources, and the sum of two Student's is wider than it need be (Behrens and Fisher): both err on the wide
    side, most where the two sources are alike and permutations are two or three (a 90 % interval covers 93 to 97 %).

    The permutations are drawn from one pool of images: at k near its size they share most of their images, and the
    scatter speaks of this pool, not of another one that could have been collected.

    With one permutation but several seeds, the seeds stand in for it; with one repeat the training noise is left
    out. In both cases the draws do not know how much the choice of training images matters: see `repeats_known`.

    Args:
        score: values (R, K, n), e.g. 0/1 hits or losses, whose weighted mean over the held-out images is the score;
            or a function of weights (n,) that returns the scores (R, K), for metrics that are no means.
        groups: (n,) codes of held-out images that belong together; None if each stands alone (values only).
        permutation_ids: (R,) which permutation each repeat belongs to.
        seed_ids: (R,) which seed.
        draws: number of draws, B.
        seed: of the draws. Equal seeds and groups give equal weights, so draws of different adaptations are paired.
        heldout: what `heldout_draws` gave for the same arguments, where it is at hand already.

    Returns:
        (B, K).

    Raises:
        InputError: shapes that don't fit, repeats named twice, fewer than two groups, or scores that are not finite.

    Cost: O(R K n + B K n) for values; 1 + B calls for a function.

    >>> draws = bootstrap_curve(np.ones((2, 3, 10)), None, [0, 1], [0, 0], draws=5)
    >>> draws.shape, float(draws.min()), float(draws.max())
    ((5, 3), 1.0, 1.0)
    """
    _checks.at_least("draws", draws, 1)
    measured = measured_scores(score, groups, permutation_ids, seed_ids)
    mean = mean_over_repeats(measured, permutation_ids)
    images = heldout_draws(score, groups, permutation_ids, draws, seed) if heldout is None else heldout
    tails = _stream(seed, "tails")
    num_groups = _codes(groups, _num_images(score, groups)).max() + 1
    spread = (images - mean) * _student(num_groups - 1, draws, tails)[:, None]
    return mean + spread + training_draws(measured, permutation_ids, seed_ids, draws, seed)


def heldout_draws(
    score: Score, groups: ArrayLike | None, permutation_ids: ArrayLike, draws: int = 1000, seed: int = 0
) -> Float[np.ndarray, "draws sizes"]:
    """Draw the mean curve under resampled groups of held-out images alone; its standard deviation is the noise floor.

    Deviations are inflated by sqrt(G / (G - 1)), G the number of groups, so that their variance is not too small.
    A draw in which the metric is undefined (a class without images) is drawn anew.

    Args:
        score: as in `bootstrap_curve`.
        groups: as in `bootstrap_curve`.
        permutation_ids: as in `bootstrap_curve`.
        draws: number of draws, B.
        seed: of the draws.

    Returns:
        (B, K).

    Raises:
        InputError: as in `bootstrap_curve`, or a metric that is undefined under almost all draws.

    Cost: as `bootstrap_curve`.

    >>> float(heldout_draws(np.array([[[0.0, 1.0]]]), None, [0], draws=4000).std().round(1))
    0.5
    """
    n = _num_images(score, groups)
    codes = _codes(groups, n)
    num_groups = int(codes.max()) + 1
    if num_groups < 2:
        raise InputError("groups names a single group; held-out noise can be told from two groups of images on.")
    rng = _stream(seed, "images")
    if callable(score):
        sampled = _draws_of_function(score, codes, permutation_ids, draws, rng)
        center = mean_over_repeats(np.asarray(score(np.ones(n)), dtype=np.float64), permutation_ids)
    else:
        averaged = np.tensordot(_repeat_weights(permutation_ids), np.asarray(score, dtype=np.float64), axes=1)
        center = averaged.mean(axis=1)
        sampled = np.concatenate(
            [w @ averaged.T / w.sum(axis=1, keepdims=True) for w in _weight_blocks(codes, draws, rng)]
        )
    return center + np.sqrt(num_groups / (num_groups - 1)) * (sampled - center)


def training_draws(
    scores: Float[np.ndarray, "repeats sizes"],
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    draws: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "draws sizes"]:
    """Draw how far the mean curve would move with other permutations (or, of one permutation, other seeds).

    Args:
        scores: measured scores of each repeat and size, (R, K).
        permutation_ids: (R,).
        seed_ids: (R,); used where there is one permutation only.
        draws: number of draws, B.
        seed: of the draws.

    Returns:
        (B, K), centered on 0; all 0 if there is one repeat.

    Raises:
        InputError: shapes that don't fit.

    Cost: O(B (R + K)).

    >>> float(abs(training_draws(np.ones((1, 4)), [0], [0], draws=2)).max())
    0.0
    """
    ids = np.asarray(permutation_ids)
    if np.unique(ids).size == 1:
        ids = np.asarray(seed_ids)
    units = np.stack([scores[ids == unit].mean(axis=0) for unit in np.unique(ids)])
    count = len(units)
    if count == 1:
        return np.zeros((draws, scores.shape[1]))
    rng = _stream(seed, "training")
    multipliers = rng.standard_normal((draws, count)) * _student(count - 1, draws, rng)[:, None]
    return multipliers @ (units - units.mean(axis=0)) / np.sqrt(count * (count - 1))


def repeats_known(permutation_ids: ArrayLike) -> bool:
    """Tell whether the repeats show how much the choice of the training images matters: two permutations or more.

    >>> repeats_known([0, 0]), repeats_known([0, 1])
    (False, True)
    """
    return np.unique(np.asarray(permutation_ids)).size >= 2


def mean_over_repeats(scores: Float[np.ndarray, "repeats ..."], permutation_ids: ArrayLike) -> Float[np.ndarray, "..."]:
    """Average over the repeats, each permutation counting alike however many seeds it has.

    >>> mean_over_repeats(np.array([[0.0], [0.0], [1.0]]), [0, 0, 1]).tolist()
    [0.5]
    """
    return np.tensordot(_repeat_weights(permutation_ids), np.asarray(scores, dtype=np.float64), axes=1)


def measured_scores(
    score: Score, groups: ArrayLike | None, permutation_ids: ArrayLike, seed_ids: ArrayLike
) -> Float[np.ndarray, "repeats sizes"]:
    """Return the scores of each repeat and size on the held-out images as they are, checked.

    >>> measured_scores(np.array([[[0.0, 1.0]]]), None, [0], [0]).tolist()
    [[0.5]]
    """
    n = _num_images(score, groups)
    scores = np.asarray(score(np.ones(n)) if callable(score) else np.asarray(score).mean(axis=-1), dtype=np.float64)
    repeats = list(zip(np.asarray(permutation_ids).tolist(), np.asarray(seed_ids).tolist(), strict=True))
    if scores.ndim != 2 or scores.shape[0] != len(repeats):
        raise InputError(f"score gives shape {scores.shape}; it must be (repeats, sizes) with {len(repeats)} repeats.")
    if len(set(repeats)) < len(repeats):
        raise InputError("permutation_ids and seed_ids name a repeat twice; each pair must be one repeat.")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise InputError(
            f"score[{row}, {column}] is {scores[row, column]}; leave a repeat with a failed cell out at all sizes, "
            "so that the sizes are compared over the same repeats."
        )
    return scores


def _draws_of_function(
    score: Callable[[np.ndarray], np.ndarray],
    codes: np.ndarray,
    permutation_ids: ArrayLike,
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    found: list[np.ndarray] = []
    for block in _weight_blocks(codes, 10 * draws + 10, rng, at_once=64):
        for weights in block:
            drawn = mean_over_repeats(np.asarray(score(weights), dtype=np.float64), permutation_ids)
            if np.isfinite(drawn).all():
                found.append(drawn)
            if len(found) == draws:
                return np.stack(found)
    raise InputError("score is undefined under most draws of the held-out images; some class has too few of them.")


def _weight_blocks(
    codes: np.ndarray, draws: int, rng: np.random.Generator, at_once: int | None = None
) -> Iterator[Float[np.ndarray, "draws images"]]:
    num_groups = int(codes.max()) + 1
    at_once = at_once or max(1, _IMAGES_AT_ONCE // codes.size)
    shares = np.full(num_groups, 1.0 / num_groups)
    for start in range(0, draws, at_once):
        counts = rng.multinomial(num_groups, shares, size=min(at_once, draws - start))
        yield counts[:, codes].astype(np.float64)


def _stream(seed: int, source: str) -> np.random.Generator:
    # One stream for each source: a further repeat must not change the draws of the images. The words keep them apart
    # from default_rng(seed), with which someone may have made or shuffled the data: [seed, 0] is that very stream.
    return np.random.default_rng([seed, *f"bootstrap {source}".encode()])


def _student(freedom: int, draws: int, rng: np.random.Generator) -> Float[np.ndarray, " draws"]:
    return np.sqrt(freedom / rng.chisquare(freedom, size=draws))


def _repeat_weights(permutation_ids: ArrayLike) -> Float[np.ndarray, " repeats"]:
    _, inverse, counts = np.unique(np.asarray(permutation_ids), return_inverse=True, return_counts=True)
    return 1.0 / (counts.size * counts[inverse])


def _codes(groups: ArrayLike | None, n: int) -> Int[np.ndarray, " images"]:
    if groups is None:
        return np.arange(n)
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _num_images(score: Score, groups: ArrayLike | None) -> int:
    if groups is None:
        if callable(score):
            raise InputError("groups is None; with a function as score give a code for each held-out image.")
        return np.asarray(score).shape[-1]
    n = np.asarray(groups).size
    if not callable(score) and np.asarray(score).shape[-1] != n:
        raise InputError(f"groups has {n} codes for {np.asarray(score).shape[-1]} held-out images; it needs one each.")
    return n
