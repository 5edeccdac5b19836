"""Future work of draft b: what weight decay does to the settling of the surface."""

from stillscape.reproductions.catalogue import Reproduction, Workplace
from stillscape.reproductions.findings import Claim, Findings, Verdict, sign
from stillscape.reproductions.heads import (
    DRAFT,
    NEEDS,
    QUICK,
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


class RegularisationSettings(HeadSettings):
    """Settings of the penalties."""

    penalties: tuple[float, ...] = (0.01, 1.0, 100.0, 1000.0)


def measure(settings: RegularisationSettings, place: Workplace) -> Findings:
    """Fit the head under growing penalties."""
    features = read_features(settings, place)
    order = balanced(settings, features)
    ways = {f"penalty {l2:g}": Way(by_cross_entropy(l2), order) for l2 in settings.penalties}
    conditions = run_conditions(ways, settings, features, place)
    weak, strong = conditions[0], conditions[-1]
    deviation, gain = difference("deviation", strong, weak), difference("gain", strong, weak)
    return Findings(
        "regularisation",
        "",
        {},
        tuple(number for one in conditions for number in numbers_of(settings, one)),
        (
            Claim(
                "More weight decay makes the surface settle faster.",
                DRAFT,
                _verdict(sign(deviation), sign(gain)),
                f"from penalty {settings.penalties[0]:g} to {settings.penalties[-1]:g} the factor before 1 / (k + 1) "
                f"changes by {deviation[0]:.3f} nats ({deviation[1]:.3f} to {deviation[2]:.3f}) and the largest "
                f"Hessian norm from {weak.mean_norm:.3g} to {strong.mean_norm:.3g}; what the last doubling of data "
                f"gains in accuracy changes by {gain[0]:.4f} ({gain[1]:.4f} to {gain[2]:.4f}). Sufficient sizes: "
                f"{'; '.join(map(found, conditions))}.",
            ),
        ),
        panels_of(settings, conditions),
    )


def _verdict(deviation: int, gain: int) -> Verdict:
    """Judge from the signs of two changes: of the factor before 1 / (k + 1), and of the last doubling's gain."""
    if deviation == gain == 0:
        return "cannot_tell"
    if deviation >= 0 and gain >= 0:
        return "falls"
    return "stands" if deviation <= 0 and gain <= 0 else "amended"


REGULARISATION = Reproduction(
    "regularisation",
    "Weight decay and the settling of the surface",
    DRAFT,
    RegularisationSettings,
    measure,
    quick={**QUICK, "penalties": (0.1, 100.0)},
    needs=NEEDS,
)
