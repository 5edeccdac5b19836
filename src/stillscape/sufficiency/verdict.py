"""The answer in plain words: how many images are enough, how sure that is, and what to do where it can't be said."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from stillscape._errors import InputError
from stillscape.sufficiency import wording
from stillscape.sufficiency.criterion import Criterion

_BY_SIMPLICITY = ("head", "lora", "last-layers", "full")


def deciding_name(question: Mapping) -> str:
    """Return the name of the criterion that answers the question: the target's, the price's, or the plain gain's.

    >>> deciding_name({"metric": "accuracy", "target": None}), deciding_name({"metric": "auroc", "target": 0.9})
    ('accuracy', 'auroc_target')
    >>> deciding_name({"metric": "accuracy", "cost_per_image": 2.0})
    'accuracy_worth'
    """
    if question.get("target") is not None:
        return question["metric"] + "_target"
    return question["metric"] + ("" if question.get("cost_per_image") is None else "_worth")


def adaptation_verdict(
    adapt: str, criteria: Mapping[str, Criterion], gains: Sequence[Mapping], question: Mapping
) -> dict:
    """Say for one adaptation how many images are enough, or why that can't be said.

    The criterion of the question's metric decides: its target or its price where one is given, else its gain. Other
    measured criteria are named as agreeing or not. Identities and bounds never have a say.

    Args:
        adapt: "head", "last-layers:N", "lora:R" or "full".
        criteria: by name; must hold `deciding_name(question)`.
        gains: of the question's metric, as from `gains`.
        question: with "metric", "level" and "epsilon", and where there are any "target" and "sizes".

    Returns:
        {"status", "k_star", "low", "high", "sentence"}.

    Raises:
        InputError: the deciding criterion is missing.

    Cost: O(1).
    """
    name = deciding_name(question)
    if name not in criteria:
        raise InputError(
            f"criteria has no {name!r}, which decides this question; it has {', '.join(sorted(criteria))}."
        )
    chosen = criteria[name]
    say = {"reached": _enough, "not_reached": _not_yet}.get(chosen.status, _unknown)
    sentences = [say(adapt, chosen, gains, question), *_others(name, criteria)]
    return {
        "status": chosen.status,
        "k_star": chosen.k_star,
        "low": chosen.low,
        "high": chosen.high,
        "sentence": " ".join(sentence for sentence in sentences if sentence),
    }


def overall_verdict(
    results: Sequence[Mapping],
    best_draws: Mapping[str, Float[np.ndarray, " draws"]],
    *,
    level: float = 0.9,
    metric: str = "accuracy",
    higher_is_better: bool = True,
) -> dict:
    """Choose the adaptation to go with, and repeat its verdict.

    The best is the one with the best metric at the largest size. Adaptations that it beats with a bootstrap
    probability under `level` can't be told from it; of all these the simplest is taken
    (head < lora < last-layers < full, then the smaller number).

    Args:
        results: each with "adapt" and "verdict", and "curves" if the measured means are to be quoted.
        best_draws: for each adaptation the bootstrap draws of the metric at the largest size, (B,), all made with the
            same seed and groups so that they are paired.
        level: probability from which on one is called better than another.
        metric: of the draws.
        higher_is_better: False for losses.

    Returns:
        {"status", "adapt", "k_star", "low", "high", "sentence"}.

    Raises:
        InputError: no result, or one without draws of the same number.

    Cost: O(len(results) * B).
    """
    names = [result["adapt"] for result in results]
    lengths = {np.size(best_draws[name]) for name in names if name in best_draws}
    if not names or any(name not in best_draws for name in names) or len(lengths) != 1 or 0 in lengths:
        raise InputError(f"best_draws has {sorted(best_draws)} for {names}; it must hold equally many draws for each.")
    sign = 1 if higher_is_better else -1
    scores = {r["adapt"]: sign * _final_score(r, metric, best_draws[r["adapt"]]) for r in results}
    best = max(names, key=lambda name: (scores[name], -_simplicity(name)[0]))
    beaten_by = {name: _probability_better(sign, best_draws[best], best_draws[name]) for name in names if name != best}
    tied = [name for name in beaten_by if beaten_by[name] < level]
    chosen = min([best, *tied], key=_simplicity)
    verdict = next(result["verdict"] for result in results if result["adapt"] == chosen)
    sentences = [verdict["sentence"]]
    if len(names) > 1:
        sentences.append(_choice(best, chosen, tied, beaten_by, sign * scores[best], metric))
    return {**verdict, "adapt": chosen, "sentence": " ".join(sentences)}


def in_words(adapt: str) -> str:
    """Return the adaptation as one would say it.

    >>> in_words("head"), in_words("last-layers:1"), in_words("lora:4")
    ('training the head alone', 'training the last block', 'LoRA of rank 4')
    """
    kind, _, amount = adapt.partition(":")
    if kind == "last-layers":
        return "training the last block" if amount == "1" else f"training the last {amount} blocks"
    words = {"head": "training the head alone", "lora": f"LoRA of rank {amount}", "full": "training the whole model"}
    return words.get(kind, adapt)


def _enough(adapt: str, chosen: Criterion, gains: Sequence[Mapping], question: Mapping) -> str:
    metric, k_star, high = question["metric"], chosen.k_star or 0, chosen.high or 0
    size = wording.images(k_star)
    if k_star == _sizes(gains, question)[0]:
        size += ", the fewest tried,"
    if chosen.name.endswith("_target"):
        goal = f"{wording.value(metric, question['target'])} in {wording.noun(metric)}"
        why = f"are enough for the target of {goal}: every size tried from there on met it"
    elif chosen.name.endswith("_worth"):
        why = "are enough: from there on no doubling of the data that was tried was worth its price"
    else:
        change = f"{_improved(metric)} {wording.noun(metric)} by more than {wording.amount(metric, chosen.epsilon)}"
        why = f"are enough: from there on no doubling of the data that was tried {change}"
    answer = [f"For {in_words(adapt)}, {size} {why}.", f"{_interval(chosen, question['level'])}."]
    if high > k_star:
        answer.append(f"To be on the safe side, plan with {high}.")
    told = _last_priced(chosen) if chosen.name.endswith("_worth") else _last_doubling(gains, question)
    return " ".join([*answer, *told, *_in_total(chosen, gains, metric)])


def _not_yet(adapt: str, chosen: Criterion, gains: Sequence[Mapping], question: Mapping) -> str:
    largest = wording.images(_sizes(gains, question)[-1])
    return f"For {in_words(adapt)}, {largest} are not yet enough: {chosen.reason}. What to do: {chosen.advice}."


def _unknown(adapt: str, chosen: Criterion, _: Sequence[Mapping], __: Mapping) -> str:
    return (
        f"For {in_words(adapt)}, this run cannot tell how many images are enough: {chosen.reason}. "
        f"What would help: {chosen.advice}."
    )


def _others(deciding: str, criteria: Mapping[str, Criterion]) -> Iterable[str]:
    chosen = criteria[deciding]
    for name, other in criteria.items():
        if name == deciding or not other.votes:
            continue
        if deciding.endswith("_worth") and name == wording.metric_of(deciding):
            continue  # the same curve against a tolerance that nobody asked about
        if not deciding.endswith("_target"):
            yield _capital(f"{wording.noun(name)} {_compared(chosen, other)}.")
        elif other.status == "not_reached":
            yield f"More data still helps: {other.reason}."
        else:
            yield (
                f"From {wording.images(other.k_star or 0)} on, a doubling no longer {_improves(name)} "
                f"{wording.noun(name)} by more than {wording.amount(name, other.epsilon)}."
            )


def _compared(chosen: Criterion, other: Criterion) -> str:
    """Return what another metric's gain says beside the deciding one's."""
    if other.status == "not_reached":
        if chosen.status == "not_reached":
            return "agrees that it is not yet enough"
        return f"{'disagrees' if chosen.status == 'reached' else 'says not yet'}: {other.reason}"
    size = wording.images(other.k_star or 0)
    if chosen.status == "reached":
        overlap = (other.low or 0) <= (chosen.high or 0) and (chosen.low or 0) <= (other.high or 0)
        return f"agrees: {size} by that measure" if overlap else f"points to another number: {size} by that measure"
    return f"{'disagrees' if chosen.status == 'not_reached' else 'says yes'}: {size} would be enough by that measure"


def _last_doubling(gains: Sequence[Mapping], question: Mapping) -> Iterable[str]:
    if not gains:
        return
    yield f"{_capital(wording.doubling(question['metric'], gains[-1], question['level']))}."
    if gains[-1]["high"] < 0:
        yield "So more images made it worse here, which points to the training recipe or to wrong labels."


def _last_priced(chosen: Criterion) -> Iterable[str]:
    yield f"{_capital(chosen.reason.partition('; ')[2])}."


def _interval(chosen: Criterion, level: float) -> str:
    sure = f"At {wording.percent(level)} confidence"
    if chosen.low == chosen.high:
        return f"{sure} no other size that was tried is the answer"
    return f"{sure} the number lies between {chosen.low} and {wording.images(chosen.high or 0)}"


def _in_total(chosen: Criterion, gains: Sequence[Mapping], metric: str) -> Iterable[str]:
    """Say what several small gains come to: each may be under the tolerance, and their sum far above it."""
    at, total, steps = chosen.k_star, 0.0, 0
    for step in gains:
        if step["from"] == at:
            at, total, steps = step["to"], total + step["mean"], steps + 1
    if steps > 1:
        change = wording.amount(metric, total if wording.higher_is_better(metric) else -total, signed=True)
        yield f"Together, the doublings from {chosen.k_star} to {wording.images(at or 0)} changed it by {change}."


def _improved(metric: str) -> str:
    return "raised" if wording.higher_is_better(metric) else "lowered"


def _improves(metric: str) -> str:
    return "raises" if wording.higher_is_better(metric) else "lowers"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _sizes(gains: Sequence[Mapping], question: Mapping) -> list[int]:
    sizes = question.get("sizes") or [end for step in gains for end in (step["from"], step["to"])]
    return sorted(sizes) or [0]


def _choice(
    best: str, chosen: str, tied: Sequence[str], beaten_by: Mapping[str, float], score: float, metric: str
) -> str:
    reached = f"{wording.value(metric, score)} in {wording.noun(metric)} at the largest size"
    lead = _capital(f"{in_words(best)} did best, with {reached}")
    if not tied:
        least = min(beaten_by.values())
        sure = "more than 99 %" if least > 0.99 else f"at least {wording.percent(np.floor(100 * least) / 100)}"
        return f"{lead}, and is better than every other way of training with a probability of {sure}."
    others = " and ".join(f"{in_words(name)} ({wording.percent(round(beaten_by[name], 2))})" for name in tied)
    cannot = f"{lead}, but it cannot be told from {others}; in brackets the probability that the best is truly better."
    if chosen == best:
        return f"{cannot} It is also the simplest of them."
    return f"{cannot} The simplest of them is {in_words(chosen)}, so its answer is given."


def _final_score(result: Mapping, metric: str, draws: np.ndarray) -> float:
    curve = result.get("curves", {}).get(metric)
    # Student's tails have no mean at two permutations; the median of the draws is always near the measured value.
    return float(np.median(draws)) if curve is None else float(curve["mean"][-1])


def _probability_better(sign: int, best: np.ndarray, other: np.ndarray) -> float:
    ahead = sign * (np.asarray(best) - np.asarray(other))
    return float(np.mean(ahead > 0) + 0.5 * np.mean(ahead == 0))


def _simplicity(adapt: str) -> tuple[int, int]:
    kind, _, amount = adapt.partition(":")
    rank = _BY_SIMPLICITY.index(kind) if kind in _BY_SIMPLICITY else len(_BY_SIMPLICITY)
    return rank, int(amount) if amount.isdigit() else 0
