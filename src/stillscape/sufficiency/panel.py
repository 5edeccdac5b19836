"""From the scores of all repeats to everything that the report says about one adaptation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape._errors import InputError
from stillscape.convergence import (
    Curve,
    Score,
    bootstrap_curve,
    curve_from_draws,
    heldout_draws,
    mean_over_repeats,
    measured_scores,
    repeats_known,
    variance_components,
)
from stillscape.sufficiency.among_runs import MOST_TOGETHER, level_together
from stillscape.sufficiency.baseline import not_above_baseline, standing
from stillscape.sufficiency.beyond import outlook_beyond
from stillscape.sufficiency.criteria import gain_criterion, hidden_change, target_criterion
from stillscape.sufficiency.criterion import Criterion
from stillscape.sufficiency.doublings import doubling_matrix, gains
from stillscape.sufficiency.outlook import interval_outlook, shared_variance
from stillscape.sufficiency.stability import stability
from stillscape.sufficiency.verdict import adaptation_verdict, deciding_name
from stillscape.sufficiency.wording import higher_is_better
from stillscape.sufficiency.worth import worth_criterion, worth_table


@dataclass(frozen=True)
class Panel:
    """What is known about one adaptation.

    Attributes:
        result: {"adapt", "verdict", "criteria", "curves", "joint", "gains", "noise_floor", "variance", "outlook",
            "baseline", "forecast", "stability"}, and "worth" where a price is asked about; plain values. "joint" holds
            status and interval of k* at levels at which several intervals hold together, for `compare`.
        best_draws: bootstrap draws of the question's metric at the largest size, (B,), for `overall_verdict`.
        criteria: by name, with what `result` leaves out.
    """

    result: dict
    best_draws: Float[np.ndarray, " draws"]
    criteria: dict[str, Criterion]


@dataclass(frozen=True)
class _Measured:
    """One metric with its draws."""

    mean: np.ndarray
    draws: np.ndarray
    heldout: np.ndarray
    scores: np.ndarray


def assemble(
    adapt: str,
    *,
    question: Mapping,
    sizes: ArrayLike,
    scores: Mapping[str, Score],
    groups: ArrayLike | None,
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    extra_criteria: Iterable[Criterion] = (),
    extra_curves: Mapping[str, Curve] | None = None,
    baseline: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Panel:
    """Assemble curves, criteria, gains, noise and verdict of one adaptation.

    Args:
        adapt: its name, e.g. "lora:4".
        question: with "metric", "epsilon", "epsilon_loss", "target" (or None) and "level"; perhaps "cost_per_image" and
            "value_per_point".
        sizes: measured sizes, (K,).
        scores: by metric, as in `bootstrap_curve`; must hold the question's metric, and "heldout_loss" if known.
        groups: (n,) codes of held-out images that belong together, or None.
        permutation_ids: (R,) of the repeats.
        seed_ids: (R,) of the repeats.
        extra_criteria: of the loss surface; they join the table, and have no say.
        extra_curves: by name, such as those of the loss surface.
        baseline: the question's metric where the most frequent class is always named; a model that is not above it at
            the largest size has not "reached" anything.
        draws: bootstrap draws.
        seed: of the draws; the same for all adaptations that are to be compared.

    Returns:
        the panel.

    Raises:
        InputError: a metric is missing, or as in the functions that this one calls.

    Cost: that of `bootstrap_curve` for each metric.
    """
    metric, level = question["metric"], question["level"]
    if metric not in scores:
        raise InputError(
            f"scores lacks {metric}; it has {', '.join(sorted(scores))}, and must hold what is asked about."
        )
    measured = {name: _measure(score, groups, permutation_ids, seed_ids, draws, seed) for name, score in scores.items()}
    asked = measured[metric]

    def judged(question: Mapping) -> tuple[dict[str, Criterion], dict[str, Any] | None]:
        known, level = repeats_known(permutation_ids), question["level"]
        resolution = _resolution(scores[metric], metric, groups, permutation_ids, sizes, level)
        criteria = _criteria(question, sizes, measured, known, resolution)
        floor = standing(metric, sizes, asked.mean, asked.draws, baseline, level) if baseline is not None else None
        if floor is not None and not floor["above"]:
            criteria = {name: not_above_baseline(each, floor, metric) for name, each in criteria.items()}
        return criteria, floor

    criteria, floor = judged(question)
    joint = _joint(question, lambda stricter: judged(stricter)[0][deciding_name(question)])
    criteria |= {criterion.name: criterion for criterion in extra_criteria}
    steps = gains(sizes, asked.draws, asked.mean, level, higher_is_better(metric))
    curves = {
        name: curve_from_draws(sizes, m.mean, m.draws, level=level, unit="nats" if "loss" in name else "share")
        for name, m in measured.items()
    }
    verdict = adaptation_verdict(adapt, criteria, steps, {**question, "sizes": np.asarray(sizes).tolist()})
    if floor is not None and not floor["above"] and verdict["status"] == "not_reached":
        verdict["sentence"] += f" Beware: {floor['sentence']}."
    beyond = outlook_beyond(metric, sizes, _by_permutation(asked.scores, permutation_ids), question)
    if beyond is not None:
        curves |= beyond[1]
        if verdict["status"] != "reached":
            verdict["sentence"] += f" {beyond[0]['sentence']}"
    now = (steps[-1]["high"] - steps[-1]["low"]) / 2 if steps else 0.0
    values = scores[metric]
    shared = 0.0 if callable(values) else shared_variance(values, sizes, groups, permutation_ids)
    result = {
        "adapt": adapt,
        "verdict": verdict,
        "criteria": {name: criterion.to_dict() for name, criterion in criteria.items()},
        "curves": {name: curve.to_dict() for name, curve in (curves | dict(extra_curves or {})).items()},
        "joint": joint,
        "gains": steps,
        "noise_floor": {
            name: float(measured[key].heldout[:, -1].std())
            for name, key in (("metric", metric), ("heldout_loss", "heldout_loss"))
            if key in measured
        },
        "variance": _variance(sizes, asked, permutation_ids, seed_ids),
        "outlook": interval_outlook(
            sizes, asked.heldout, asked.scores, permutation_ids, level=level, now=now, shared=shared, seed=seed
        ),
        "baseline": floor,
        "forecast": None if beyond is None else beyond[0],
        "stability": stability(
            sizes,
            asked.scores,
            permutation_ids,
            seed_ids,
            question=question,
            higher_is_better=higher_is_better(metric),
        ),
    }
    if question.get("cost_per_image") is not None:
        price = {name: question[name] for name in ("cost_per_image", "value_per_point")}
        result["worth"] = worth_table(steps, **price)
    return Panel(result, asked.draws[:, -1], criteria)


def _joint(question: Mapping, judged: Callable[[Mapping], Criterion]) -> list[dict[str, Any]]:
    """Return what the deciding criterion says at levels at which two and more intervals hold together."""
    rows = []
    for intervals in range(2, MOST_TOGETHER + 1):
        found = judged({**question, "level": level_together(question["level"], intervals)})
        rows.append({"intervals": intervals, "status": found.status, "low": found.low, "high": found.high})
    return rows


def _by_permutation(scores: np.ndarray, permutation_ids: ArrayLike) -> np.ndarray:
    """Return the mean over seeds of each order: seeds of one order share its images, and are no repeats of it."""
    ids = np.asarray(permutation_ids)
    return np.array([scores[ids == each].mean(axis=0) for each in np.unique(ids)])


def _measure(
    score: Score,
    groups: ArrayLike | None,
    permutation_ids: ArrayLike,
    seed_ids: ArrayLike,
    draws: int,
    seed: int,
) -> _Measured:
    scores = measured_scores(score, groups, permutation_ids, seed_ids)
    heldout = heldout_draws(score, groups, permutation_ids, draws, seed)
    return _Measured(
        mean_over_repeats(scores, permutation_ids),
        bootstrap_curve(score, groups, permutation_ids, seed_ids, draws, seed, heldout=heldout),
        heldout,
        scores,
    )


def _criteria(
    question: Mapping, sizes: ArrayLike, measured: Mapping[str, _Measured], known: bool, resolution: float
) -> dict[str, Criterion]:
    metric = question["metric"]
    epsilons = {"heldout_loss": question["epsilon_loss"], metric: question["epsilon"]}

    def given(name: str) -> dict[str, Any]:
        """Return what every rule on this metric is given."""
        return {
            "sizes": sizes,
            "draws": measured[name].draws,
            "mean": measured[name].mean,
            "level": question["level"],
            "higher_is_better": higher_is_better(name),
            "repeats_known": known,
        }

    found = {}
    for name in dict.fromkeys([metric, "heldout_loss"] if "heldout_loss" in measured else [metric]):
        floor = resolution if name == metric else 0.0
        found[name] = gain_criterion(name, epsilon=epsilons[name], resolution=floor, **given(name))
    if question.get("cost_per_image") is not None:
        name, price = f"{metric}_worth", {key: question[key] for key in ("cost_per_image", "value_per_point")}
        found[name] = worth_criterion(name, resolution=resolution, **price, **given(metric))
    if question.get("target") is not None:
        name = f"{metric}_target"
        found[name] = target_criterion(name, target=question["target"], **given(metric))
    return found


def _resolution(
    score: Score,
    metric: str,
    groups: ArrayLike | None,
    permutation_ids: ArrayLike,
    sizes: ArrayLike,
    level: float,
) -> float:
    """Return the floor for the noise of a share on which hardly any image changed sides; 0 where it isn't needed."""
    _, _, matrix = doubling_matrix(sizes)
    if callable(score) or not matrix.size or not higher_is_better(metric):
        return 0.0
    change = matrix[-1] @ mean_over_repeats(score, permutation_ids)
    return hidden_change(change, np.arange(change.size) if groups is None else groups, level)


def _variance(sizes: ArrayLike, asked: _Measured, permutation_ids: ArrayLike, seed_ids: ArrayLike) -> list[dict]:
    repeats = zip(np.asarray(permutation_ids).tolist(), np.asarray(seed_ids).tolist(), strict=True)
    rows = dict(zip(repeats, asked.scores, strict=True))
    seeds = sorted({seed for _, seed in rows})
    full = [p for p in sorted({p for p, _ in rows}) if all((p, seed) in rows for seed in seeds)]
    parts = variance_components(np.array([[rows[p, seed] for seed in seeds] for p in full])) if full else None
    heldout = asked.heldout.std(axis=0)
    return [
        {
            "k": int(k),
            "permutations": None if parts is None or parts.permutations is None else float(parts.permutations[at]),
            "seeds": None if parts is None or parts.seeds is None else float(parts.seeds[at]),
            "heldout": float(heldout[at]),
        }
        for at, k in enumerate(np.asarray(sizes).tolist())
    ]
