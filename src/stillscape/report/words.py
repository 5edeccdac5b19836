"""Numbers, names and statuses in the words of the page: one spelling for each, for people who don't read code."""

import math
import re

from stillscape.sufficiency import wording

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
PERCENT_SIGN = "\N{NO-BREAK SPACE}%"

_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "calibration_error": "calibration error",
    "sensitivity_at_95_specificity": f"sensitivity at 95{PERCENT_SIGN} specificity",
    "heldout_loss": "held-out loss",
    "train_loss": "training loss",
    "fixed_surface": "loss surface at fixed weights",
    "fixed_surface_closed_form": "the same in closed form",
    "neighbourhood": "loss surface away from the optimum",
    "neighbourhood_loss_part": "its part from the losses",
    "neighbourhood_gradient_part": "its part from the slopes",
    "neighbourhood_remainder_part": "its part from the curvature",
    "path": "on the way to the retrained weights",
    "theorem3_printed": "Theorem 3 as printed",
    "theorem3_rigorous": "Theorem 3 corrected",
    "distance": "distance between optima",
    "heldout_loss_gain": "measured gain of a doubling in held-out loss",
    "optimism_gap": "optimism gap",
    "optimism_gain": "forecast: a quarter of the optimism gap",
    "takeuchi_gain": "forecast: Takeuchi, from curvature and gradients",
    "next_doubling_gain": "forecast: one more image, carried on",
}
_STATUSES = {
    "reached": ("Enough", "✓"),
    "not_reached": ("Not enough yet", "↑"),
    "cannot_tell": ("Cannot tell", "?"),
    "vacuous_bound": ("Bound says nothing", "∅"),
    "null": ("Met by any model", "○"),
    "ok": ("Done", "✓"),
    "failed": ("Failed", "✕"),
}


_NATS = ("fixed_surface", "neighbourhood", "theorem", "path", "optimism", "takeuchi", "next_doubling")


def adaptation_name(adapt: str) -> str:
    """Return what an adaptation trains, in words; an unknown one keeps its own spelling.

    >>> adaptation_name("lora:4"), adaptation_name("last-layers:1"), adaptation_name("last-layers:3")
    ('LoRA, rank 4', 'Last block and head', 'Last 3 blocks and head')
    """
    kind, _, amount = adapt.partition(":")
    if kind == "last-layers" and amount:
        return "Last block and head" if amount == "1" else f"Last {amount} blocks and head"
    if kind == "lora" and amount:
        return f"LoRA, rank {amount}"
    return {"head": "Head only", "full": "Whole model"}.get(adapt, adapt)


def curve_name(name: str) -> str:
    """Return a curve's, criterion's or metric's name in words."""
    if name.endswith("_target"):
        return f"target for {curve_name(name.removesuffix('_target'))}"
    if name.endswith("_worth"):
        return f"{curve_name(name.removesuffix('_worth'))}, against its price"
    return _METRICS.get(name, name.replace("_", " "))


def in_percent(name: str) -> bool:
    """Tell whether a metric, or a criterion on it, is read in percent."""
    return wording.in_points(name)


def lower_is_better(name: str) -> bool:
    """Tell whether less of a metric is better: losses and errors."""
    return not wording.higher_is_better(name)


def status_name(status: str) -> str:
    """Return a status in words."""
    return _STATUSES.get(status, (status.replace("_", " "), ""))[0]


def status_mark(status: str) -> str:
    """Return a status as one sign, so that color is never its only carrier."""
    return _STATUSES.get(status, ("", "·"))[1]


def first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence and the rest, which together are the text.

    >>> first_sentence("It fell by 0.5 points. So stop.")
    ('It fell by 0.5 points.', ' So stop.')
    """
    first = re.match(r".*?[.!?](?= [A-Z])", text, re.S)
    end = first.end() if first else len(text)
    return text[:end], text[end:]


def sentence_case(text: str) -> str:
    """Return `text` with its first letter raised and the rest left alone."""
    return text[:1].upper() + text[1:]


def is_missing(value: float | None) -> bool:
    """Tell whether a number is absent: null in the record, or not finite."""
    return value is None or not math.isfinite(value)


def count(value: float | None) -> str:
    """Return a whole number with thousands set apart.

    >>> count(12000), count(None)
    ('12,000', '–')
    """
    return DASH if value is None or is_missing(value) else f"{round(value):,}"


def images(value: float | None) -> str:
    """Return a number of images with its noun."""
    return f"{count(value)} image{'' if value == 1 else 's'}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number to `digits` significant digits, with a power of ten only where it would be hard to read.

    >>> number(0.012345), number(1234567.0), number(3.2e-07), number(0.0), number(None)
    ('0.0123', '1,230,000', '3.2×10⁻⁷', '0', '–')
    """
    if value is None or is_missing(value):
        return DASH
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -5 < exponent < 7:
        rounded = round(value, digits - 1 - exponent)
        text = f"{rounded:,.{max(0, digits - 1 - exponent)}f}"
        return text.rstrip("0").rstrip(".").replace("-", MINUS) if "." in text else text.replace("-", MINUS)
    mantissa = f"{value / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".").replace("-", MINUS)
    return f"{mantissa}{TIMES}10{superscript(exponent)}"


def superscript(exponent: int) -> str:
    """Return a whole number in raised digits.

    >>> superscript(-12)
    '⁻¹²'
    """
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def is_nats(name: str, unit: str | None = None) -> bool:
    """Tell whether a curve's values are losses."""
    return unit == "nats" or "loss" in name or name.startswith(_NATS)


def quantity(value: float | None, name: str) -> str:
    r"""Return a value of the named curve with its unit.

    >>> quantity(0.9125, "accuracy"), quantity(0.9125, "auroc"), quantity(0.25, "heldout_loss")
    ('91.2\xa0%', '0.912', '0.25 nats')
    """
    if value is None or is_missing(value):
        return DASH
    if in_percent(name):
        return f"{100 * value:.1f}{PERCENT_SIGN}"
    return f"{number(value)} nats" if is_nats(name) else f"{value:.3f}"


def change(value: float | None, name: str, *, signed: bool = True) -> str:
    """Return a difference of two values of the named curve: percentages differ by points.

    >>> change(0.012, "accuracy"), change(0.01, "accuracy", signed=False), change(-0.02, "heldout_loss")
    ('+1.2 points', '1 point', '−0.02 nats')
    """
    if value is None or is_missing(value):
        return DASH
    percent = in_percent(name)
    size = f"{100 * abs(value):.1f}" if percent and signed else number(abs(value) * (100 if percent else 1))
    sign = MINUS if value < 0 else "+" * signed
    unit = (" point" if size == "1" else " points") if percent else (" nats" if is_nats(name) else "")
    return f"{sign}{size}{unit}"


def span(low: float | None, high: float | None, *, unit: str = "images") -> str:
    """Return an interval of sizes in words; an open end says so.

    >>> span(100, 400), span(100, None), span(None, None)
    ('100 to 400 images', '100 images or more', '–')
    """
    if low is None and high is None:
        return DASH
    if high is None:
        return f"{count(low)} {unit} or more"
    if low is None:
        return f"up to {count(high)} {unit}"
    return f"{count(low)} {unit}" if low == high else f"{count(low)} to {count(high)} {unit}"


def kept_together(text: str) -> str:
    r"""Return the text with no line end between a number and its percent sign.

    >>> kept_together("90 % of them")
    '90\xa0% of them'
    """
    return re.sub(r"(?<=\d) %", PERCENT_SIGN, text)


def percent(level: float | None) -> str:
    r"""Return a share as a percentage.

    >>> percent(0.9)
    '90\xa0%'
    """
    return DASH if level is None else f"{100 * level:.4g}{PERCENT_SIGN}"
