"""How much data is enough: criteria over measured curves, and the verdict in plain words."""

from stillscape.sufficiency.among_runs import (
    MOST_TOGETHER,
    Answer,
    answer_of,
    fewest,
    in_a_list,
    level_together,
    needs_fewer,
    score_difference,
    sentence_among,
    widening,
)
from stillscape.sufficiency.anytime import AnytimeGain, anytime_gain, training_variances
from stillscape.sufficiency.beyond import settling_size
from stillscape.sufficiency.classes import class_statuses, classes_sentence
from stillscape.sufficiency.collecting import collecting_verdict, null_hypothesis
from stillscape.sufficiency.criteria import gain_criterion, smallest_resolution, target_criterion
from stillscape.sufficiency.criterion import Criterion
from stillscape.sufficiency.data_curve import Forecast, RequiredSize, forecast, required_size
from stillscape.sufficiency.doublings import doubling_matrix, gains
from stillscape.sufficiency.estimates import estimate_criterion
from stillscape.sufficiency.outlook import interval_outlook, outlook_sentence, shared_variance
from stillscape.sufficiency.panel import Panel, assemble
from stillscape.sufficiency.said import sentences_beside
from stillscape.sufficiency.stability import stability, stability_sentence
from stillscape.sufficiency.surface import bound_criterion, fixed_surface_criterion, neighborhood_criterion
from stillscape.sufficiency.verdict import adaptation_verdict, deciding_name, in_words, overall_verdict
from stillscape.sufficiency.wording import higher_is_better
from stillscape.sufficiency.worth import break_even_gain, worth_criterion, worth_table

__all__ = [
    "MOST_TOGETHER",
    "Answer",
    "AnytimeGain",
    "Criterion",
    "Forecast",
    "Panel",
    "RequiredSize",
    "adaptation_verdict",
    "answer_of",
    "anytime_gain",
    "assemble",
    "bound_criterion",
    "break_even_gain",
    "class_statuses",
    "classes_sentence",
    "collecting_verdict",
    "deciding_name",
    "doubling_matrix",
    "estimate_criterion",
    "fewest",
    "fixed_surface_criterion",
    "forecast",
    "gain_criterion",
    "gains",
    "higher_is_better",
    "in_a_list",
    "in_words",
    "interval_outlook",
    "level_together",
    "needs_fewer",
    "neighborhood_criterion",
    "null_hypothesis",
    "outlook_sentence",
    "overall_verdict",
    "required_size",
    "score_difference",
    "sentence_among",
    "sentences_beside",
    "settling_size",
    "shared_variance",
    "smallest_resolution",
    "stability",
    "stability_sentence",
    "target_criterion",
    "training_variances",
    "widening",
    "worth_criterion",
    "worth_table",
]
