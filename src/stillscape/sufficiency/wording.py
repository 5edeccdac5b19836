"""Numbers as a doctor or a manager reads them: accuracy in points and percent, losses in nats, sizes in images."""

import math
from collections.abc import Mapping

_NOUNS = {"auroc": "the area under the ROC curve", "macro_f1": "macro F1", "heldout_loss": "the held-out loss"}
#: Suffixes of criteria that ask something else of a metric than its gain: a target, or whether it is worth its price.
QUESTIONS = ("_target", "_worth")
_POINTS = ("recall", "accuracy", "balanced_accuracy", "macro_f1", "sensitivity_at_95_specificity")


def noun(metric: str) -> str:
    """Return the metric in words.

    >>> noun("balanced_accuracy"), noun("auroc")
    ('balanced accuracy', 'the area under the ROC curve')
    """
    return _NOUNS.get(metric_of(metric), metric_of(metric).replace("_", " "))


def metric_of(criterion: str) -> str:
    """Return the metric that a criterion reads.

    >>> metric_of("auroc_target"), metric_of("accuracy_worth"), metric_of("accuracy")
    ('auroc', 'accuracy', 'accuracy')
    """
    for suffix in QUESTIONS:
        criterion = criterion.removesuffix(suffix)
    return criterion


def higher_is_better(metric: str) -> bool:
    """Tell whether more of the metric is better: all but losses and errors.

    >>> higher_is_better("accuracy"), higher_is_better("heldout_loss")
    (True, False)
    """
    return not ("loss" in metric or "error" in metric)


def amount(metric: str, difference: float, *, signed: bool = False, finer: bool = False) -> str:
    """Return a difference of the metric, with its unit; `finer` gives one digit more, where small ones are compared.

    >>> amount("accuracy", 0.0123), amount("accuracy", 0.01), amount("heldout_loss", -0.0312, signed=True)
    ('1.2 points', '1 point', '-0.031 nats')
    >>> amount("accuracy", 0.00234, finer=True)
    '0.23 points'
    """
    if in_points(metric):
        number = _number(100 * difference, 1 + finer, signed)
        return f"{number} point" if number.lstrip("+-") == "1" else f"{number} points"
    return _number(difference, 3 + finer, signed) + (" nats" if _in_nats(metric) else "")


def span(metric: str, low: float, high: float) -> str:
    """Return an interval of differences, the unit said once.

    >>> span("accuracy", -0.003, 0.011)
    '-0.3 to +1.1 points'
    """
    scale, digits = (100, 1) if in_points(metric) else (1, 3)
    unit = " points" if in_points(metric) else " nats" if _in_nats(metric) else ""
    return f"{_number(scale * low, digits, True)} to {_number(scale * high, digits, True)}{unit}"


def value(metric: str, number: float) -> str:
    """Return a value of the metric, with its unit.

    >>> value("accuracy", 0.921), value("heldout_loss", 0.25), value("auroc", 0.9534)
    ('92.1 %', '0.25 nats', '0.953')
    """
    if in_points(metric):
        return f"{_number(100 * number, 1, False)} %"
    return _number(number, 3, False) + (" nats" if _in_nats(metric) else "")


def doubling(metric: str, step: Mapping, level: float) -> str:
    """Return what the last doubling changed, as a clause; a gain in a loss is told as the fall that it is.

    >>> doubling("heldout_loss", {"from": 5, "to": 10, "mean": 0.2, "low": 0.1, "high": 0.3}, 0.9)
    'the last doubling, from 5 to 10 images, changed the held-out loss by -0.2 nats (90 % interval: -0.3 to -0.1 nats)'
    """
    return f"the last doubling, from {step['from']} to {images(step['to'])}, changed {change(metric, step, level)}"


def change(metric: str, step: Mapping, level: float) -> str:
    """Return the metric and by how much a step changes it, with its interval; a gain in a loss is a fall.

    >>> change("accuracy", {"mean": 0.02, "low": 0.01, "high": 0.03}, 0.9)
    'accuracy by +2 points (90 % interval: +1 to +3 points)'
    """
    mean, low, high = step["mean"], step["low"], step["high"]
    if not higher_is_better(metric):
        mean, low, high = -mean, -high, -low
    interval = f"{percent(level)} interval: {span(metric, low, high)}"
    return f"{noun(metric)} by {amount(metric, mean, signed=True)} ({interval})"


def images(count: int) -> str:
    """Return a number of images.

    >>> images(1), images(300)
    ('1 image', '300 images')
    """
    return "1 image" if count == 1 else f"{count} images"


def percent(share: float) -> str:
    """Return a share in percent, without empty decimals.

    >>> percent(0.9), percent(0.975)
    ('90 %', '97.5 %')
    """
    return f"{_number(100 * share, 1, False)} %"


def round_up(number: float) -> float:
    """Return the number rounded up to two significant digits, so that what is advised is never too little.

    >>> round_up(0.01234), round_up(4.0)
    (0.013, 4.0)
    """
    if number <= 0:
        return 0.0
    digits = 1 - math.floor(math.log10(number))
    # The slack keeps 0.013 from becoming 0.014 by its own round-off.
    return round(math.ceil(number * 10.0**digits - 1e-9) / 10.0**digits, max(digits, 0))


def in_points(metric: str) -> bool:
    """Tell whether a metric, or a criterion on it, is a share that is read in percent and differs by points."""
    return metric_of(metric) in _POINTS


def _in_nats(metric: str) -> bool:
    return "loss" in metric


def _number(number: float, digits: int, signed: bool) -> str:
    # A tolerance of 0.0004 must not be printed as 0; a change of 0.04 points may be.
    smallest = 0.5 * 10.0**-digits
    fixed = abs(number) >= smallest or number == 0 or (signed and digits == 1)
    text = f"{number:.{digits}f}" if fixed else f"{number:.2g}"
    if "." in text and "e" not in text:
        text = text.rstrip("0").rstrip(".")
    text = "0" if text == "-0" else text
    return f"+{text}" if signed and number > 0 and text != "0" else text
