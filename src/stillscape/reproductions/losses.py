"""Future work of draft b: squared error against cross-entropy."""

from stillscape.reproductions.catalogue import Reproduction, Workplace
from stillscape.reproductions.findings import Claim, Findings, sign
from stillscape.reproductions.heads import (
    DRAFT,
    NEEDS,
    QUICK,
    HeadSettings,
    Way,
    balanced,
    by_cross_entropy,
    by_squares,
    difference,
    found,
    numbers_of,
    panels_of,
    read_features,
    run_conditions,
    squared,
)


class LossSettings(HeadSettings):
    """Settings of the two losses."""

    l2: float = 10.0


def measure(settings: LossSettings, place: Workplace) -> Findings:
    """Fit the head by both losses on the same nested subsets."""
    features = read_features(settings, place)
    order = balanced(settings, features)
    ways = {
        "cross-entropy": Way(by_cross_entropy(settings.l2), order),
        "squared error": Way(by_squares(settings.l2), order, squared),
    }
    conditions = run_conditions(ways, settings, features, place)
    entropy, squares = conditions
    accuracy, gain = difference("accuracy", squares, entropy), difference("gain", squares, entropy)
    return Findings(
        "losses",
        "",
        {},
        tuple(number for one in conditions for number in numbers_of(settings, one)),
        (
            Claim(
                "The choice of loss changes how the surface settles, and so how much data is enough.",
                DRAFT,
                "stands" if sign(gain) else "cannot_tell",
                f"squared error against cross-entropy: accuracy {accuracy[0]:+.4f} ({accuracy[1]:+.4f} to "
                f"{accuracy[2]:+.4f}), the last doubling's gain {gain[0]:+.4f} ({gain[1]:+.4f} to {gain[2]:+.4f}). "
                f"Sufficient sizes: {'; '.join(map(found, conditions))}.",
            ),
        ),
        panels_of(settings, conditions),
    )


LOSSES = Reproduction(
    "losses",
    "Squared error against cross-entropy",
    DRAFT,
    LossSettings,
    measure,
    quick=QUICK,
    needs=NEEDS,
)
