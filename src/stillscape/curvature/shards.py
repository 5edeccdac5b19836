r"""The one-pass curve over k shared out: shards of the samples are measured apart, and merged to the same curve.

At each k the norms need inner products of sample k + 1 with the sum over all samples before it. That sum is not known
where a shard is measured, and no few numbers of the shard stand in for it: so a shard holds, of each of its samples,
what the undivided pass would count (images of the same random vectors, and the low-rank part), which no other sample
has a part in. All products, the dear part, are spent there. The merge counts the samples in order, with the sum of all
before as the offset, by the very code of the undivided pass.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.curvature.difference import DifferenceSketch, HessianDifferenceCurve
from stillscape.curvature.per_sample import PerSampleHessian


@dataclass(frozen=True)
class CurveShard:
    """What a pass over the samples `start` to `stop` - 1 gave.

    Attributes:
        start: number of its first sample among all.
        seed: of the random vectors.
        rank: of what is kept of each sample.
        model: digest of the model at w and of what is differentiated; shards of one curve share it.
        images: of each sample, its Hessian times the random vectors.
        rows: the samples' low-rank rows, one after the other.
        values: their values.
        counts: how many of the rows are each sample's.
        num_sample_products: products that were spent.
    """

    start: int
    seed: int
    rank: int
    model: str
    images: Float[Tensor, "n t P"]
    rows: Float[Tensor, "e P"]
    values: Float[Tensor, " e"]
    counts: Int[Tensor, " n"]
    num_sample_products: int

    @property
    def stop(self) -> int:
        """The number that follows its last sample's."""
        return self.start + len(self.counts)

    def state(self) -> dict[str, Tensor]:
        """Return all of it as tensors, to be stored."""
        numbers = torch.tensor([self.start, self.seed, self.rank, self.num_sample_products])
        model = torch.tensor(list(bytes.fromhex(self.model)), dtype=torch.uint8)
        long = {"images": self.images, "rows": self.rows, "values": self.values, "counts": self.counts}
        return {"numbers": numbers, "model": model, **long}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "CurveShard":
        """Return the shard that a `state` is of."""
        start, seed, rank, spent = state["numbers"].tolist()
        model = bytes(state["model"].tolist()).hex()
        long = {name: state[name] for name in ("images", "rows", "values", "counts")}
        return cls(start, seed, rank, model, num_sample_products=spent, **long)


def curve_shard(hv: PerSampleHessian, start: int = 0, rank: int = 16, seed: int = 0) -> CurveShard:
    """Measure one shard of the samples, for `merge_shards` to make the curve over k of.

    Args:
        hv: the operator on the samples of this shard alone, in their order among all; see ``hv.subset``.
        start: number of the first of them among all samples, from 0.
        rank: as in `hessian_difference_curve`, the same for all shards.
        seed: likewise.

    Raises:
        InputError: if `start` is below 0 or `rank` below 2.

    Cost: 2 x rank products for each sample; as many vectors are held of each, so that a shard is cut to the memory,
        and a long pass to many shards.

    Example:
        Hessians 2, 8 and 18; see `hessian_difference_curve`.

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> hv = PerSampleHessian(model, lambda z, y: ((z - y) ** 2).sum(), x, torch.zeros(3, 1))
        >>> shards = [curve_shard(hv.subset([0]), 0, rank=2), curve_shard(hv.subset([1, 2]), 1, rank=2)]
        >>> merge_shards(shards).spectral.round(decimals=3).tolist()
        [6.0, 13.0]
    """
    at_least("start", start, 0)
    sketch = DifferenceSketch(hv.num_parameters, rank, seed, hv.dtype, hv.device)
    images = sketch.vectors.new_empty(hv.num_samples, *sketch.vectors.shape)
    rows, values = [], []
    for place, (image, own_rows, own_values) in enumerate(sketch.measured(hv, range(hv.num_samples))):
        images[place] = image
        rows.append(own_rows)
        values.append(own_values)
    counts = torch.tensor([len(own) for own in values])
    spent = sketch.num_sample_products
    return CurveShard(start, seed, rank, digest(hv), images, torch.cat(rows), torch.cat(values), counts, spent)


def merge_shards(
    shards: Iterable[CurveShard],
    num_samples: int | None = None,
    *,
    sizes: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> HessianDifferenceCurve:
    """Return the curve of all samples from shards of them: that of the undivided pass, up to rounding.

    Args:
        shards: in any order if they are a sequence; one that is made or read one at a time (a generator) keeps only one
            in memory, and must be in order.
        num_samples: how many there are in all, to be held against the last shard; not checked unless given.
        sizes: values of k to measure at; all unless given.
        device: where it is computed.

    Raises:
        InputError: if shards are of different models, ranks, seeds or precisions, overlap, or leave samples out.

    Cost: no product; a dozen times 5 x rank^2 x P operations a sample. Memory: that of one shard at a time and some
        7 x rank vectors.
    """
    return merged_sketch(shards, num_samples, sizes=sizes, device=device).curve()


def merged_sketch(
    shards: Iterable[CurveShard],
    num_samples: int | None = None,
    *,
    width: int = 0,
    sizes: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> DifferenceSketch:
    """Return the sketch itself, which can go on with further samples, and keeps cores for other orders with a `width`.

    Arguments and errors are those of `merge_shards`; `width` is that of `DifferenceSketch`.
    """
    sketch, first = None, None
    for shard in sorted(shards, key=lambda one: one.start) if isinstance(shards, Sequence) else shards:
        if sketch is None or first is None:
            first = shard
            size, dtype = shard.images.shape[2], shard.images.dtype
            sketch = DifferenceSketch(size, shard.rank, shard.seed, dtype, device, width, sizes)
        _check_fit(shard, first, sketch.num_samples)
        take(sketch, shard)
    if sketch is None:
        raise InputError("shards are none; give at least one, from curve_shard.")
    if num_samples is not None and sketch.num_samples != num_samples:
        raise InputError(
            f"shards end with sample {sketch.num_samples - 1}, and there are {num_samples} samples; measure the rest."
        )
    if sketch.num_samples < 2:
        raise InputError("shards hold 1 sample; a difference needs at least two.")
    return sketch


def digest(hv: PerSampleHessian) -> str:
    """Return a digest of what a product depends on but for the samples: model, chosen parameters, part, loss's name."""
    network = hv._runner.network
    loss = getattr(network.loss_fn, "__qualname__", type(network.loss_fn).__qualname__)
    found = hashlib.sha256(repr((list(hv.slices), hv.part, str(hv.dtype), loss)).encode())
    for name, tensor in network.model.state_dict().items():
        held = tensor.detach().cpu().contiguous()
        found.update(repr((name, tuple(held.shape), str(held.dtype))).encode())
        found.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _check_fit(shard: CurveShard, first: CurveShard, done: int) -> None:
    for what, own, other in (
        ("the model (its weights, chosen parameters, part or loss)", shard.model[:12], first.model[:12]),
        ("seed", shard.seed, first.seed),
        ("rank", shard.rank, first.rank),
        ("dtype", shard.images.dtype, first.images.dtype),
    ):
        if own != other:
            raise InputError(
                f"shards differ in {what}: {own} in the one from sample {shard.start}, {other} in the first. All must "
                "be measured alike; measure that one again."
            )
    if shard.start > done:
        raise InputError(
            f"shards leave samples out: the next begins at {shard.start}, those before end at {done}. Measure samples "
            f"{done} to {shard.start - 1}, or give the shards in order."
        )
    if shard.start < done:
        raise InputError(
            f"shards overlap: one begins at sample {shard.start}, but those before end at {done}; each sample counts "
            "once. Leave one of them out."
        )


def take(sketch: DifferenceSketch, shard: CurveShard) -> None:
    """Let a sketch go on by a shard that is known to fit."""
    device, sizes = sketch.vectors.device, shard.counts.tolist()
    parts = zip(shard.images, shard.rows.split(sizes), shard.values.split(sizes), strict=True)
    for images, rows, values in parts:
        sketch.count(images.to(device), rows.to(device), values.to(device))
    sketch.num_sample_products += shard.num_sample_products
