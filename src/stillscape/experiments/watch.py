"""Data arrive in batches: each look trains on what was there before, scores what is new, and says stop or go on."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from stillscape._errors import InputError, RecordError, RunError
from stillscape._files import remove_folder, write_whole
from stillscape._folders import Folder, as_folder, cache_folder, within
from stillscape.data import ImageSet, fingerprint, leak_free_groups
from stillscape.experiments.activations import grow_activations
from stillscape.experiments.arrivals import Arrivals, arrivals, class_shift
from stillscape.experiments.bench import Bench, model_of, readable_images
from stillscape.experiments.collect import collect
from stillscape.experiments.local import within_reach, workers_ready
from stillscape.experiments.lock import locked
from stillscape.experiments.mend import grant_more_time, set_aside_damaged, try_again_with_memory
from stillscape.experiments.plan import Plan
from stillscape.experiments.progress import Progress, Silent
from stillscape.experiments.run import run_cells
from stillscape.experiments.store import SCHEMA, Store, write_json
from stillscape.experiments.threads import plans_settings
from stillscape.models import Pretrained
from stillscape.sufficiency import anytime_gain, collecting_verdict, null_hypothesis, training_variances

STATE = "watch.json"
_FREE = (
    "workers",
    "executor",
    "cell_seconds",
    "skip_broken",
    "sizes",
)  # what may change from look to look; sizes follow from the data


def watch(plan: Plan, folder: str | Folder, *, progress: Progress | None = None) -> dict[str, Any]:
    """Take one look at data that are being collected, and say whether to go on.

    Each image that has arrived since the last look is scored once, by models trained on all or half of what was
    there before; only then it joins the training data. At the first look, and wherever more than `held_out` of all
    images is new, so many of them go to training at once that `held_out` is left to be scored. The decision is that
    of `stillscape.sufficiency.anytime_gain`: if every doubling still gained more than `epsilon`, the chance of ever
    being told to stop would be at most 1 - `level`, however often one looks. A call without new images spends
    nothing and repeats the last answer, and so does any call after a stop.

    Args:
        plan: one adaptation, metric accuracy, at least two repeats; sizes and folds are not used.
        folder: where evidence is kept, a path or an address; made if missing. Within one folder the plan must
            stay what it is.
        progress: where to report to; nowhere by default.

    Returns:
        {"schema", "question", "verdict": {"status": "stop" or "go_on", "sentence", "look", "num_images"}, "looks",
        "notes"}.

    Raises:
        InputError: if data, model, plan or folder can't be used.
        RecordError: if the folder's state can't be read.
        RunError: if trainings fail; the look is not spent, and the same call takes it again.
    """
    folder, progress = as_folder(folder), progress or Silent()
    plan = within_reach(folder, plan)
    _check(plan, folder)
    with workers_ready(plan), ExitStack() as held:
        if folder.is_dir():
            held.enter_context(locked(folder))
        return _look(plan, folder, progress, held)


def _look(plan: Plan, folder: Folder, progress: Progress, held: ExitStack) -> dict[str, Any]:
    state = _read_state(folder, plan)
    if state["verdict"] and state["verdict"]["status"] == "stop":
        return _answer(state, [f"Stopped at look {state['verdict']['look']}; nothing more is asked of the data."])
    images, digests, notes = readable_images(plan, progress)
    groups = leak_free_groups(images.groups, digests)
    # The draw of the scored part depends on the number of the look alone, so that a look that was killed repeats it.
    number = len(state["looks"]) + 1
    arrived = arrivals(groups, digests, state["known"], plan.held_out, [plan.split_seed, number])
    gone = len(set(state["known"]) - set(digests))
    notes += [f"{gone} images of earlier looks are no longer there; none of them is trained on."] if gone else []
    bench = _bench(model_of(plan, progress), plan, folder, images, digests, groups, arrived)
    hindrance = _hindrance(bench, arrived)
    if hindrance:
        return _answer(state if state["looks"] else _untaken(state, hindrance, len(digests)), [*notes, hindrance])
    if state["model"] not in (None, bench.model_fingerprint):
        raise InputError(f"model {plan.model!r} has other weights than at look 1; name another --out for them.")
    if not folder.is_dir():  # made only now, when it is known that there is something to put into it
        held.enter_context(locked(folder))
        if (folder / STATE).is_file():
            raise InputError(f"out is {str(folder)!r}, where another process has just taken a look; call again.")
    write_whole(folder / "plan.toml", plan.to_toml().encode())
    look = _take(bench, images, digests, arrived, number, folder, progress)
    shift = class_shift(images.labels, np.isin(digests, state["known"]), images.classes)
    look["notes"] = [*notes, *([shift] if shift else [])]
    state = _judged(state, look, plan)
    state |= {"known": sorted(set(state["known"]) | set(digests)), "model": bench.model_fingerprint}
    write_json(folder / STATE, state)  # one rename: before it the look was not taken, after it it was
    return _answer(state, look["notes"])


def _check(plan: Plan, folder: Folder) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out is {str(folder)!r}, which is a file; name a folder.")
    if (folder / "result.json").is_file() or (folder / "cells").is_dir():
        raise InputError(f"out is {str(folder)!r}, which holds a run; name another folder to watch into.")
    if len(plan.adapt) != 1:
        raise InputError(f"adapt is {', '.join(plan.adapt)}; a watch follows one way of training: --adapt head.")
    if plan.metric != "accuracy":
        raise InputError(f"metric is {plan.metric!r}; a watch judges single images, so it must be accuracy.")
    if plan.target is not None:
        raise InputError(f"target is {plan.target!r}; a watch asks for the gain of a doubling, by --epsilon.")
    if plan.cost_per_image is not None:
        raise InputError(f"cost_per_image is {plan.cost_per_image!r}; a watch asks for a gain, by --epsilon.")
    if plan.epsilon >= 1:
        raise InputError(f"epsilon is {plan.epsilon!r}; a gain in accuracy lies under 1, such as 0.01.")
    if plan.repeats < 2:
        raise InputError("repeats is 1; how much the choice of images matters is known from 2 repeats on.")


def _bench(
    pretrained: Pretrained,
    plan: Plan,
    folder: Folder,
    images: ImageSet,
    digests: list[str],
    groups: np.ndarray,
    arrived: Arrivals,
) -> Bench:
    largest = len(digests) - len(arrived.scored)
    fold = np.full(len(digests), -1)
    fold[arrived.scored] = 0
    bench = Bench(
        plan=plan.model_copy(update={"evaluation": "holdout"}),
        cache=cache_folder(folder),
        classes=images.classes,
        labels=images.labels,
        groups=groups,
        has_groups=images.groups is not None,
        fold=fold,
        sizes=(largest // 2, largest),
        data_fingerprint=fingerprint(images, digests),
        model_fingerprint=pretrained.fingerprint,
        notes=(),
    )
    bench.__dict__["pretrained"] = pretrained
    return bench


def _hindrance(bench: Bench, arrived: Arrivals) -> str:
    """Return why no look can be taken now; empty where one can."""
    if not arrived.num_new:
        return "No new images since the last look."
    if not len(arrived.scored):
        return f"{arrived.num_new} images are new, but none can be scored: all belong to groups or copies seen before."
    half, num_classes = bench.sizes[0], len(np.unique(bench.labels[bench.fold < 0]))
    if half < max(num_classes, 2):
        return f"{len(bench.labels)} images in {len(bench.classes)} classes are too few to train on half of them."
    try:
        for permutation in range(bench.plan.repeats):
            bench.training_rows(half, permutation, 0)
    except InputError:
        return "The groups are too large for half of the images to be trained on."
    return ""


def _take(
    bench: Bench,
    images: ImageSet,
    digests: list[str],
    arrived: Arrivals,
    number: int,
    folder: Folder,
    progress: Progress,
) -> dict[str, Any]:
    """Train and score; return the record of the look, which is not yet taken."""
    (adapt,) = bench.plan.adapt
    place = folder / "looks" / f"{number:03d}"
    within(folder, place)
    store = Store(place)
    store.sweep()
    set_aside_damaged(place, progress)
    grant_more_time(bench, store)
    try_again_with_memory(store, [bench.key(cell) for cell in bench.cells()], progress)
    wanted = {bench.key(cell) for cell in bench.cells()}
    for left in [left for left in place.glob("cells/*") if left.name not in wanted]:
        remove_folder(left)  # of a look that was killed, and whose data have grown since
    with plans_settings(bench.plan):
        grow_activations(bench.input_path(adapt), bench.split(adapt), images, digests, bench.pretrained, progress)
    run_cells(bench, place, [cell for cell in bench.cells() if not store.has(bench.key(cell))], store, progress)
    collected = collect(bench, store, adapt)
    orders = sorted(set(collected.permutation_ids))
    if len(orders) < 2:
        reasons = {record["reason"] for record in collected.records.values() if record["status"] == "failed"}
        raise RunError(f"look {number} has {len(orders)} repeats whose trainings went through ({'; '.join(reasons)}).")
    of_unit = _unit_means(collected.groups)
    hits = collected.hits @ of_unit.T
    ids = np.array(collected.permutation_ids)
    gains = np.array([(hits[ids == order, 1] - hits[ids == order, 0]).mean(axis=0) for order in orders])
    trained = np.bincount(bench.labels[bench.fold < 0], minlength=len(bench.classes))
    return {
        "look": number,
        "num_images": len(digests),
        "num_new": arrived.num_new,
        "num_scored": len(arrived.scored),
        "units": gains.shape[1],
        "sizes": list(bench.sizes),
        "accuracy": float(hits[:, 1].mean()),
        "baseline": float((of_unit @ (collected.labels == trained.argmax())).mean()),
        "gain": float(gains.mean()),
        "differences": gains.round(6).tolist(),
    }


def _unit_means(groups: np.ndarray) -> np.ndarray:
    """Return the matrix (units, images) that averages over the images of each unit: a group, or a single image."""
    codes = np.unique(groups, return_inverse=True)[1]
    matrix = np.zeros((codes.max() + 1, codes.size))
    matrix[codes, np.arange(codes.size)] = 1
    return matrix / matrix.sum(axis=1, keepdims=True)


def _judged(state: dict[str, Any], look: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return the state with one look more and the verdict over all of them."""
    looks = [*state["looks"], look]
    tables = [np.asarray(each["differences"], dtype=np.float64) for each in looks]
    variances = training_variances(tables)
    found = anytime_gain(
        [table.mean(axis=0) for table in tables],
        epsilon=plan.epsilon,
        level=plan.level,
        training_variance=variances.tolist(),
    )
    look |= {
        "training_std": float(np.sqrt(variances[-1])),
        "evidence": float(found.evidence[-1]),
        "upper": float(found.upper),
    }
    units = [each["units"] for each in looks]
    verdict = collecting_verdict(
        plan.adapt[0],
        found,
        look,
        epsilon=plan.epsilon,
        level=plan.level,
        accuracy=float(np.average([each["accuracy"] for each in looks], weights=units)),
        baseline=float(np.average([each["baseline"] for each in looks], weights=units)),
    )
    return {**state, "looks": looks, "verdict": {**verdict, "look": look["look"], "num_images": look["num_images"]}}


def _untaken(state: dict[str, Any], why: str, num_images: int) -> dict[str, Any]:
    return {**state, "verdict": {"status": "go_on", "sentence": f"Go on collecting: {why}", "look": 0,
                                 "num_images": num_images}}  # fmt: skip


def _answer(state: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    shown = {key: state[key] for key in ("schema", "question", "verdict")}
    looks = [{key: value for key, value in look.items() if key != "differences"} for look in state["looks"]]
    return {**shown, "looks": looks, "notes": notes}


def _read_state(folder: Folder, plan: Plan) -> dict[str, Any]:
    """Return what earlier looks left, or a beginning; another plan than theirs is refused."""
    fixed = {name: value for name, value in plan.model_dump(mode="json").items() if name not in _FREE}
    path = folder / STATE
    if not path.is_file():
        question = {
            "data": Path(plan.data).name,
            "model": plan.model if not Path(plan.model).exists() else Path(plan.model).resolve().name,
            "adapt": plan.adapt[0],
            "metric": plan.metric,
            "epsilon": plan.epsilon,
            "level": plan.level,
            "repeats": plan.repeats,
            "seeds": plan.seeds,
            "null": null_hypothesis(plan.epsilon),
        }
        return {
            "schema": SCHEMA, "question": question, "verdict": None, "looks": [], "plan": fixed, "model": None,
            "known": [],
        }  # fmt: skip
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        before = state["plan"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"{str(path)!r} can't be read ({error!r}); name another --out, or restore the file."
        ) from None
    if not isinstance(state.get("schema"), int) or state["schema"] > SCHEMA:
        raise RecordError(f"{str(path)!r} has schema {state.get('schema')!r}; this version reads up to {SCHEMA}.")
    differing = [name for name in fixed if fixed[name] != before.get(name, fixed[name])]
    if differing:
        changes = "; ".join(f"{name} was {before[name]!r}, is {fixed[name]!r}" for name in differing)
        raise InputError(
            f"out is {str(folder)!r}, where another question is watched ({changes}). An error rate is that of one "
            "question asked from the first look on; name another folder."
        )
    return state
