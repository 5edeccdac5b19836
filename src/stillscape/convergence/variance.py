"""Where the scatter of repeated trainings comes from: the images they were given, or the seed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stillscape._errors import InputError


@dataclass(frozen=True)
class VarianceComponents:
    """Standard deviations of a single training's score, by source, one entry for each size.

    Attributes:
        permutations: over the choice and order of the training images; None with a single permutation.
        seeds: over the seed; None with a single seed.
        interaction: what belongs to neither alone; None unless there are two of both.
    """

    permutations: Float[np.ndarray, " sizes"] | None
    seeds: Float[np.ndarray, " sizes"] | None
    interaction: Float[np.ndarray, " sizes"] | None


def variance_components(scores: Float[np.ndarray, "permutations seeds sizes"]) -> VarianceComponents:
    r"""Split the variance of the scores over permutations and seeds, by size.

    Two-way random effects without replication, score_ps = mu + a_p + b_s + e_ps, by the mean squares

        sigma_a^2 = (MS_p - MS_e) / S,   sigma_b^2 = (MS_s - MS_e) / P,   sigma_e^2 = MS_e,

    clipped at 0. With a single seed the permutations' part includes e (it can't be told apart), and the other way
    round.

    Args:
        scores: (P, S, K), every permutation with every seed.

    Returns:
        standard deviations, in the unit of the scores.

    Raises:
        InputError: not three axes, or a score that is not finite.

    Cost: O(P S K).

    >>> parts = variance_components(np.array([[[1.0], [1.0]], [[3.0], [3.0]]]))
    >>> float(parts.permutations[0] ** 2), float(parts.seeds[0])
    (2.0000000000000004, 0.0)
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape or not np.isfinite(values).all():
        raise InputError(
            f"scores has shape {values.shape}; it must be (permutations, seeds, sizes) with every score finite. "
            "Leave permutations with a failed cell out."
        )
    permutations, seeds, _ = values.shape
    over_permutations, over_seeds = values.mean(axis=1), values.mean(axis=0)
    if permutations == 1 or seeds == 1:
        return VarianceComponents(
            over_permutations.std(axis=0, ddof=1) if permutations > 1 else None,
            over_seeds.std(axis=0, ddof=1) if seeds > 1 else None,
            None,
        )
    rest = values - over_permutations[:, None] - over_seeds[None] + values.mean(axis=(0, 1))
    error = (rest**2).sum(axis=(0, 1)) / ((permutations - 1) * (seeds - 1))
    # MS_p / S is the plain variance of the permutations' means, MS_s / P that of the seeds' means.
    of_permutations = over_permutations.var(axis=0, ddof=1) - error / seeds
    of_seeds = over_seeds.var(axis=0, ddof=1) - error / permutations
    return VarianceComponents(
        np.sqrt(np.maximum(of_permutations, 0.0)), np.sqrt(np.maximum(of_seeds, 0.0)), np.sqrt(error)
    )
