"""The pass over Hessians shared out: with more workers than adaptations, each measures some of the images.

A shard is one chunk of the undivided pass, so that products are taken of the same images together, and the merged curve
is that of one worker to the bit. Shards lie in the run folder until the curve is recorded.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from stillscape.curvature import CurveShard, DifferenceSketch, PerSampleHessian, curve_shard
from stillscape.curvature.difference import most_at_once
from stillscape.curvature.shards import digest, take
from stillscape.experiments.bench import Bench
from stillscape.experiments.local import num_workers
from stillscape.experiments.store import Store

KIND = "hessian-shards"
OF_FREE = 0.25  # of the disk's free bytes; a pass whose shards need more stays whole
METHOD = 2  # to be raised when the numbers of the curve change
RANK = 16  # of the curve
MANY = 10**6


@dataclass(frozen=True)
class Share:
    """The chunks `number`, `number` + `count`, ... of one adaptation's pass."""

    adapt: str
    number: int
    count: int


def shares(bench: Bench, sizes: dict[str, int]) -> list[Share]:
    """Return how passes are shared out; nothing of those of one chunk, or where one worker has each to itself.

    Args:
        bench: of the run.
        sizes: numbers of parameters, by adaptation whose pass is to be done.
    """
    count = num_workers(bench, MANY) // max(1, len(sizes))
    if count < 2:
        return []
    several = [adapt for adapt, size in sizes.items() if bench.plan.curvature > most_at_once(size, RANK)]
    return [Share(adapt, number, count) for adapt in several for number in range(count)]


def measure_share(store: Store, key: str, hv: PerSampleHessian, share: Share) -> None:
    """Measure the chunks of a share and store each, but for those that are there."""
    if not isinstance(store.folder, Path) or shard_bytes(hv) > OF_FREE * shutil.disk_usage(store.folder).free:
        return
    at_once = DifferenceSketch(hv.num_parameters, RANK, dtype=hv.dtype, device=hv.device).at_once(hv)
    starts = range(0, hv.num_samples, at_once)
    for start in starts[share.number :: share.count]:
        name = shard_name(key, start)
        if not store.has(name):
            rows = range(start, min(hv.num_samples, start + at_once))
            state = curve_shard(hv.subset(rows), start, RANK).state()
            store.write(name, {"status": "ok", "start": start}, None, {n: t.cpu().numpy() for n, t in state.items()})


def extend_by_shards(sketch: DifferenceSketch, hv: PerSampleHessian, store: Store, key: str) -> None:
    """Go over all samples, by a stored shard wherever a whole one begins, and by the samples themselves elsewhere."""
    at_once, model = sketch.at_once(hv), ""
    while (start := sketch.num_samples) < hv.num_samples:
        shard = _stored(store, shard_name(key, start))
        if shard is not None:
            model = model or digest(hv)
        if shard is None or shard.model != model:
            sketch.extend(hv, range(start, min(hv.num_samples, start + at_once)))
        else:
            take(sketch, shard)


def let_go(store: Store, key: str) -> None:
    """Remove the shards of a pass that is recorded."""
    if not isinstance(store.place, Path):
        return
    for path in store.place.glob(shard_name(key, "*")):
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # those of another pass may be there
        store.place.rmdir()


def shard_name(key: str, start: int | str) -> str:
    """Return the key of the shard that begins at a sample."""
    return f"{key}-{start}"


def shard_bytes(hv: PerSampleHessian) -> int:
    """Return what all shards of a pass take on the disk."""
    element = torch.finfo(hv.dtype).bits // 8
    return hv.num_samples * 2 * RANK * hv.num_parameters * element


def _stored(store: Store, name: str) -> CurveShard | None:
    if not store.has(name) or store.damage(name):
        return None
    state = store.weights(name)
    return None if state is None else CurveShard.from_state({n: torch.from_numpy(t) for n, t in state.items()})
