"""Fine-tune to a recipe, and measure each image's loss."""

from stillscape.training.fit import fit
from stillscape.training.losses import Scores, directional_slopes, score
from stillscape.training.metrics import METRICS, metrics, most_frequent_baseline, per_class_recall, weighted_metric
from stillscape.training.optimum import fit_head
from stillscape.training.outcome import Fit
from stillscape.training.precision import check_precision
from stillscape.training.recipe import EarlyStop, Recipe, default_recipe

__all__ = [
    "METRICS",
    "EarlyStop",
    "Fit",
    "Recipe",
    "Scores",
    "check_precision",
    "default_recipe",
    "directional_slopes",
    "fit",
    "fit_head",
    "metrics",
    "most_frequent_baseline",
    "per_class_recall",
    "score",
    "weighted_metric",
]
