"""Future work of draft b: balanced data against skewed and clustered ones."""

import numpy as np
from jaxtyping import Int
from sklearn.cluster import KMeans

from stillscape.reproductions.catalogue import Reproduction, Workplace
from stillscape.reproductions.findings import Claim, Findings, sign, verdict_of
from stillscape.reproductions.heads import (
    DRAFT,
    NEEDS,
    QUICK,
    Features,
    HeadSettings,
    Way,
    balanced,
    by_cross_entropy,
    difference,
    found,
    numbers_of,
    panels_of,
    read_features,
    run_conditions,
)


class DiversitySettings(HeadSettings):
    """Settings of the three ways to draw data."""

    sizes: tuple[int, ...] = (25, 50, 100, 200, 400, 800)
    l2: float = 10.0
    skew: float = 0.6
    clusters: int = 60


def skewed(features: Features, ratio: float, seed: int) -> Int[np.ndarray, " pool"]:
    """Return the pool in random order, each class coming `ratio` times as often as the one before it."""
    rng = np.random.default_rng(seed)
    ranks = rng.permutation(int(features.labels.max()) + 1)
    weights = ratio ** ranks[features.labels[features.pool]]
    # Exponential clocks: the order in which they ring is that of weighted draws without replacement.
    return np.asarray(features.pool[np.argsort(rng.exponential(size=len(weights)) / weights)])


def clustered(features: Features, clusters: int, seed: int) -> Int[np.ndarray, " pool"]:
    """Return the pool cluster by cluster, in random order of k-means clusters of the features."""
    rng = np.random.default_rng(seed)
    found = KMeans(clusters, n_init=1, random_state=seed).fit_predict(features.x[features.pool])
    place = rng.permutation(clusters)
    return np.asarray(features.pool[np.lexsort((rng.random(len(found)), place[found]))])


def measure(settings: DiversitySettings, place: Workplace) -> Findings:
    """Fit the head on subsets drawn in three ways from one pool; all are scored on the same balanced images."""
    features = read_features(settings, place)
    fit = by_cross_entropy(settings.l2)
    ways = {
        "balanced": Way(fit, balanced(settings, features)),
        "skewed": Way(fit, lambda repeat: skewed(features, settings.skew, settings.seed + repeat)),
        "clustered": Way(fit, lambda repeat: clustered(features, settings.clusters, settings.seed + repeat)),
    }
    conditions = run_conditions(ways, settings, features, place)
    plain, *others = conditions
    claims = []
    for other in others:
        accuracy, gain = difference("accuracy", other, plain), difference("gain", other, plain)
        claims.append(
            Claim(
                f"Data less diverse ({other.label}) need more samples.",
                DRAFT,
                verdict_of(-sign(accuracy)),
                f"accuracy at the same number of images {accuracy[0]:+.4f} ({accuracy[1]:+.4f} to "
                f"{accuracy[2]:+.4f}), and the last doubling gains {gain[0]:+.4f} ({gain[1]:+.4f} to {gain[2]:+.4f}) "
                f"more. Sufficient sizes: {found(plain)}; {found(other)}.",
            )
        )
    return Findings(
        "diversity",
        "",
        {},
        tuple(number for one in conditions for number in numbers_of(settings, one)),
        tuple(claims),
        panels_of(settings, conditions),
        remarks=(
            f"Skewed: each class comes {settings.skew:g} times as often as the one before it. Clustered: images come "
            f"k-means cluster by cluster, {settings.clusters} of them in the pool, as from few patients or places.",
        ),
    )


DIVERSITY = Reproduction(
    "diversity",
    "Balanced, skewed and clustered data",
    DRAFT,
    DiversitySettings,
    measure,
    quick={**QUICK, "clusters": 30},
    needs=NEEDS,
)
