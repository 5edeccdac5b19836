"""Go on collecting or stop, in plain words: what one look at data that arrive in batches says."""

from collections.abc import Mapping

from stillscape.sufficiency import wording
from stillscape.sufficiency.anytime import AnytimeGain
from stillscape.sufficiency.verdict import in_words

METRIC = "accuracy"


def null_hypothesis(epsilon: float) -> str:
    """Return what has to be rejected before one may stop.

    >>> null_hypothesis(0.01)
    'at every look so far, the last doubling of the data gains more than 1 point of accuracy'
    """
    tolerance = wording.amount(METRIC, epsilon)
    return f"at every look so far, the last doubling of the data gains more than {tolerance} of accuracy"


def collecting_verdict(
    adapt: str, found: AnytimeGain, look: Mapping, *, epsilon: float, level: float, accuracy: float, baseline: float
) -> dict:
    """Return whether to go on, and why.

    A model that is no better than always naming the most frequent class gains nothing from doublings either; it is
    never said to have enough.

    Args:
        adapt: "head", "last-layers:N", "lora:R" or "full".
        found: of `anytime_gain`, over all looks.
        look: the last one, with "look", "num_images", "units", "sizes" and "gain".
        epsilon: tolerance for one doubling.
        level: 1 - alpha.
        accuracy: mean over all units scored so far, by the models of the larger size.
        baseline: what naming the most frequent class would have got on the same units.

    Returns:
        {"status": "stop" or "go_on", "sentence"}.
    """
    way, size = in_words(adapt), wording.images(look["num_images"])
    tolerance, most = wording.amount(METRIC, epsilon), wording.amount(METRIC, found.upper)
    sure, looks = wording.percent(level), _counted(look["look"], "look")
    if accuracy <= baseline:
        return _answer(
            "go_on",
            f"For {way} nothing can be said of {size}: accuracy on images that arrived later is "
            f"{wording.value(METRIC, accuracy)}, no better than always naming the most frequent class "
            f"({wording.value(METRIC, baseline)}). Go on collecting, or train more of the model.",
        )
    if found.stopped_at is not None:
        risk, most = wording.percent(1 - level), wording.amount(METRIC, min(found.upper, epsilon))
        return _answer(
            "stop",
            f"Stop collecting: for {way}, {size} are enough. On images that arrived after the models were trained, "
            f"over {looks}, the last doubling gains at most {most} of accuracy; the tolerance is {tolerance}. "
            f"Had every doubling still gained more, the chance of ever hearing this, however often one looks, would "
            f"have been at most {risk}.",
        )
    low, high = look["sizes"]
    pace = f" At this pace about {wording.images(found.to_go)} more would settle it." if found.to_go else ""
    return _answer(
        "go_on",
        f"Go on collecting: for {way}, {size} do not rule out that a doubling still gains more than {tolerance} of "
        f"accuracy. From {low} to {wording.images(high)} it gained "
        f"{wording.amount(METRIC, look['gain'], signed=True)} on {_counted(look['units'], 'new image')}; at {sure} "
        f"confidence, over {looks}, at most {most}.{pace}",
    )


def _answer(status: str, sentence: str) -> dict:
    return {"status": status, "sentence": sentence}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
