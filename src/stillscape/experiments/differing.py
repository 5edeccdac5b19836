"""In what several runs differ, and what therefore can't be compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from stillscape.experiments.recorded import RecordedRun

K_STAR, SCORES = "k_star", "scores"
_UNKNOWN = "not recorded"

#: What may differ, where it stands, what it bars, and what that means.
_OF_QUESTION: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...] = (
    ("metric", ("metric",), (K_STAR, SCORES),
     "k* and scores are those of different metrics and can't be held against each other."),
    ("meaning of “enough”", ("epsilon", "target", "cost_per_image", "value_per_point"), (K_STAR,),
     "Each k* answers a question of its own, so they can't be ranked."),
    ("level of the intervals", ("level",), (K_STAR, SCORES),
     "The intervals are as wide as different levels ask for; whether they meet says nothing."),
    ("images scored", ("evaluation", "num_scored"), (SCORES,),
     "Scores are of different held-out images and are not subtracted. Each k* keeps its own interval, which holds "
     "the noise of its own held-out images."),
    ("sizes", ("sizes",), (),
     "k* is sought on the sizes of each run; a coarser or shorter list gives a coarser answer."),
    ("repeats and seeds", ("repeats", "seeds"), (), "Fewer repeats give wider intervals."),
    ("model", ("model",), (), "So this is a comparison of models, too."),
)  # fmt: skip
_VERSIONS = ("stillscape", "python", "torch", "transformers", "peft", "numpy", "threads")


def differences(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """Name everything in which runs differ that decides their numbers.

    Args:
        runs: two or more.

    Returns:
        of each: "what", "values" (one for each run, in words), "bars" (among "k_star" and "scores"), "means".

    Cost: O(runs).
    """
    questions = [run.result.get("question") or {} for run in runs]
    found = [*_of_data(runs)]
    for what, names, bars, means in _OF_QUESTION:
        values = [[question.get(name) for name in names] for question in questions]
        if any(value != values[0] for value in values):
            found.append(_difference(what, [_said(names, value) for value in values], bars, means))
    return [*found, *_of_plans(runs), *_of_versions(runs)]


def barred(found: Sequence[Mapping[str, Any]], thing: str) -> list[str]:
    """Return names of the differences that keep a thing from being compared."""
    return [difference["what"] for difference in found if thing in difference["bars"]]


def _of_data(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    prints = [(run.result.get("provenance") or {}).get("data_fingerprint") for run in runs]
    if None not in prints and len(set(prints)) == 1:
        return []
    values = [_data_in_words(run.result.get("question") or {}, mark) for run, mark in zip(runs, prints, strict=True)]
    known = [mark for mark in prints if mark is not None]
    if len(set(known)) > 1:
        means = "These are other images or labels: what one run finds says nothing of the other's data."
    else:
        means = "Whether the runs saw the same images can't be known, so they are not ranked."
    return [_difference("data", values, (K_STAR, SCORES), means)]


def _data_in_words(question: Mapping[str, Any], fingerprint: str | None) -> str:
    size = f"{question.get('num_images')} images, {question.get('num_classes')} classes"
    mark = f"fingerprint {fingerprint[:12]}" if fingerprint else "no fingerprint recorded"
    return f"{question.get('data') or 'unnamed'}: {size}, {mark}"


def _of_plans(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    found = []
    splits = [_split(run) for run in runs]
    if all(splits) and any(split != splits[0] for split in splits):
        # every image is scored under cross-fitting, whatever the folds; a held-out part is another set of images
        apart = any("held-out" in (run.result.get("question") or {}).get("evaluation", "") for run in runs)
        means = "Scores are of different held-out images and are not subtracted." if apart else (
            "The same images are scored, by models trained on other folds."
        )  # fmt: skip
        found.append(_difference("folds or held-out part", splits, (SCORES,) if apart else (), means))
    recipes = [run.plan.get("recipes") for run in runs if run.plan]
    if len(recipes) == len(runs) and any(recipe != recipes[0] for recipe in recipes):
        values = [_recipe_in_words(recipe or {}) for recipe in recipes]
        found.append(_difference("training recipe", values, (), "So this is a comparison of recipes, too."))
    # written where it isn't the default, and by no earlier version
    precisions = [(run.result.get("provenance") or {}).get("precision", "float32") for run in runs]
    if any(precision != precisions[0] for precision in precisions):
        found.append(_difference("precision of training", precisions, (), "Scores and losses are float32 in all."))
    weights = [(run.result.get("provenance") or {}).get("model_fingerprint") for run in runs]
    names = {(run.result.get("question") or {}).get("model") for run in runs}
    if len(names) == 1 and None not in weights and len(set(weights)) > 1:
        values = [f"fingerprint {str(mark)[:12]}" for mark in weights]
        found.append(_difference("weights of the model", values, (), "The models share a name, not their weights."))
    return found


def _split(run: RecordedRun) -> str:
    if not run.plan:
        return ""
    return f"{run.plan.get('folds')} folds, {run.plan.get('held_out')} held out, seed {run.plan.get('split_seed')}"


def _recipe_in_words(recipes: Mapping[str, Any]) -> str:
    if not recipes:
        return "the default"
    parts = [f"{kind}: " + ", ".join(f"{n} {v}" for n, v in recipe.items()) for kind, recipe in recipes.items()]
    return "; ".join(parts)


def _of_versions(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    found = []
    for name in _VERSIONS:
        values = [(run.result.get("provenance") or {}).get(name) for run in runs]
        if any(value != values[0] for value in values):
            said = [_UNKNOWN if value is None else str(value) for value in values]
            found.append(_difference(name, said, (), "Numbers may differ in their last digits, seldom in more."))
    return found


def _difference(what: str, values: Sequence[str], bars: Sequence[str], means: str) -> dict[str, Any]:
    return {"what": what, "values": list(values), "bars": list(bars), "means": means}


def _said(names: Sequence[str], values: Sequence[Any]) -> str:
    if len(names) == 1:
        value = values[0]
        return ", ".join(map(str, value)) if isinstance(value, list) else str(_UNKNOWN if value is None else value)
    parts = [
        f"{name.replace('_', ' ')} {value}" for name, value in zip(names, values, strict=True) if value is not None
    ]
    return ", ".join(parts) or _UNKNOWN
