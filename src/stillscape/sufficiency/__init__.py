"""How much data is enough: criteria over measured curves, and the verdict in plain words."""

from stillscape.sufficiency.anytime import AnytimeGain, anytime_gain, training_variances
from stillscape.sufficiency.collecting import collecting_verdict, null_hypothesis
from stillscape.sufficiency.criteria import gain_criterion, smallest_resolution, target_criterion
from stillscape.sufficiency.criterion import Criterion
from stillscape.sufficiency.doublings import doubling_matrix, gains
from stillscape.sufficiency.panel import Panel, assemble
from stillscape.sufficiency.surface import bound_criterion, fixed_surface_criterion, neighborhood_criterion
from stillscape.sufficiency.verdict import adaptation_verdict, deciding_name, in_words, overall_verdict
from stillscape.sufficiency.wording import higher_is_better

__all__ = [
    "AnytimeGain",
    "Criterion",
    "Panel",
    "adaptation_verdict",
    "anytime_gain",
    "assemble",
    "bound_criterion",
    "collecting_verdict",
    "deciding_name",
    "doubling_matrix",
    "fixed_surface_criterion",
    "gain_criterion",
    "gains",
    "higher_is_better",
    "in_words",
    "neighborhood_criterion",
    "null_hypothesis",
    "overall_verdict",
    "smallest_resolution",
    "target_criterion",
    "training_variances",
]
