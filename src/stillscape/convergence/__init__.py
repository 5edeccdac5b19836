"""Records become curves over the dataset size k, with bands."""

from stillscape.convergence.bootstrap import (
    Score,
    bootstrap_curve,
    heldout_draws,
    mean_over_repeats,
    measured_scores,
    repeats_known,
    training_draws,
)
from stillscape.convergence.curves import Curve, curve_from_draws
from stillscape.convergence.loss_differences import (
    Band,
    LossDifferences,
    geometric_sizes,
    loss_differences,
    mean_absolute_deviation,
    ordered_differences,
)
from stillscape.convergence.neighborhood import NeighborhoodDifferences, neighborhood_differences
from stillscape.convergence.settling_surface import SettlingSurface, settling_surface, share_within
from stillscape.convergence.variance import VarianceComponents, variance_components

__all__ = [
    "Band",
    "Curve",
    "LossDifferences",
    "NeighborhoodDifferences",
    "Score",
    "SettlingSurface",
    "VarianceComponents",
    "bootstrap_curve",
    "curve_from_draws",
    "geometric_sizes",
    "heldout_draws",
    "loss_differences",
    "mean_absolute_deviation",
    "mean_over_repeats",
    "measured_scores",
    "neighborhood_differences",
    "ordered_differences",
    "repeats_known",
    "settling_surface",
    "share_within",
    "training_draws",
    "variance_components",
]
