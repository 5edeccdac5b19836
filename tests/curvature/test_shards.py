"""Shards of the one-pass curve: merged they are the undivided pass, and shards that don't fit are refused."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.curvature import (
    CurveShard,
    DifferenceSketch,
    PerSampleHessian,
    curve_shard,
    curves_over_orders,
    hessian_difference_curve,
    merge_shards,
    merged_sketch,
)
from tests.curvature.networks import CLASSES, DOUBLE, filled

SAMPLES, RANK = 40, 3  # so small a rank that the low-rank sum is cut again and again


@pytest.fixture(scope="module")
def hv():
    return head(0)


def head(seed, dtype=DOUBLE):
    model = filled(torch.nn.Linear(9, CLASSES)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, 9, generator=generator, dtype=DOUBLE).to(dtype)
    return PerSampleHessian(model, F.cross_entropy, x, torch.arange(SAMPLES) % CLASSES)


def cut(hv, *ends, seed=0):
    starts = (0, *ends[:-1])
    return [curve_shard(hv.subset(range(a, b)), a, RANK, seed) for a, b in zip(starts, ends, strict=True)]


def same(one, other, rtol=1e-12):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=rtol, atol=0, msg=field.name)


@pytest.mark.parametrize("ends", [(40,), (13, 40), (1, 2, 17, 39, 40)])
def test_merged_at_every_k_as_undivided(hv, ends):
    shards = cut(hv, *ends)
    whole = hessian_difference_curve(hv, RANK)
    same(merge_shards(shards), whole)
    same(merge_shards(iter(shards)), whole)  # one at a time
    same(merge_shards(shards[::-1], SAMPLES), whole)  # a list may be in any order


def test_stored_and_read_again(hv):
    again = [CurveShard.from_state(shard.state()) for shard in cut(hv, 25, 40)]
    same(merge_shards(again), hessian_difference_curve(hv, RANK))


def test_other_orders_and_going_on(hv):
    """Cores of merged shards are those of the pass, and a merged sketch goes on with further samples."""
    sketch = merged_sketch(cut(hv, 10, 30), width=64)
    sketch.extend(hv, range(30, SAMPLES))
    whole = DifferenceSketch(hv.num_parameters, RANK, dtype=DOUBLE, width=64)
    whole.extend(hv, range(SAMPLES))
    same(sketch.curve(), whole.curve())
    one, other = (curves_over_orders(each.cores, 2, [3, 20]) for each in (sketch, whole))
    assert one.spectral == pytest.approx(other.spectral, rel=1e-9)


def test_some_sizes_only(hv):
    whole, sizes = hessian_difference_curve(hv, RANK), [1, 7, 20, 39]
    for some in (hessian_difference_curve(hv, RANK, sizes=sizes), merge_shards(cut(hv, 7, 8, 40), sizes=sizes)):
        assert some.k.tolist() == sizes
        for field in fields(some)[:-1]:
            torch.testing.assert_close(getattr(some, field.name), getattr(whole, field.name)[torch.tensor(sizes) - 1])


def test_a_pass_at_some_sizes_goes_on(hv):
    first, second = (DifferenceSketch(hv.num_parameters, RANK, dtype=DOUBLE, sizes=[2, 11, 30]) for _ in range(2))
    first.extend(hv, range(12))
    second.load(first.state())
    second.extend(hv, range(12, 20))
    assert second.curve().k.tolist() == [2, 11]
    with pytest.raises(InputError, match=r"norms at 2 sizes after 20 samples; this sketch's sizes ask for 19"):
        DifferenceSketch(hv.num_parameters, RANK, dtype=DOUBLE).load(second.state())


def test_memory_of_a_pass_is_that_of_256_samples(monkeypatch):
    """Of a pass with room for all samples at once no more are held than of 256; of what is kept, eight numbers a k."""
    many = PerSampleHessian(
        torch.nn.Linear(2, 2), F.cross_entropy, torch.ones(700, 2), torch.zeros(700, dtype=torch.long)
    )
    held, products = [], DifferenceSketch._products

    def counted(self, hv, rows):
        held.append(len(rows))
        return products(self, hv, rows)

    monkeypatch.setattr(DifferenceSketch, "_products", counted)
    sketch = DifferenceSketch(many.num_parameters, 2, sizes=[3, 300])
    sketch.extend(many, range(700))
    assert held == [256, 256, 188]
    assert sketch.state()["norms"].shape == (2, 8)


def test_shards_that_do_not_fit_are_refused(hv):
    first, second, third = cut(hv, 10, 20, 40)
    with pytest.raises(InputError, match=r"leave samples out: the next begins at 20, those before end at 10\. Measure"):
        merge_shards([first, third])
    with pytest.raises(InputError, match="the next begins at 10, those before end at 0"):
        merge_shards([second, third])
    with pytest.raises(InputError, match="overlap: one begins at sample 10, but those before end at 20"):
        merge_shards([first, second, second, third])
    with pytest.raises(InputError, match="end with sample 19, and there are 40 samples"):
        merge_shards([first, second], SAMPLES)
    with pytest.raises(InputError, match="differ in seed: 1 in the one from sample 10, 0 in the first"):
        merge_shards([first, cut(hv, 10, 20, seed=1)[1]])
    with pytest.raises(InputError, match="differ in rank"):
        merge_shards([first, replace(second, rank=4)])
    with pytest.raises(InputError, match="shards are none"):
        merge_shards([])
    with pytest.raises(InputError, match="hold 1 sample"):
        merge_shards(cut(hv, 1))
    with pytest.raises(InputError, match="start is -1"):
        curve_shard(hv, -1)
    with pytest.raises(InputError, match="sizes go up to 40; with 40 samples the largest is 39"):
        hessian_difference_curve(hv, RANK, sizes=[40])
    with pytest.raises(InputError, match=r"sizes are \[0, 2\]"):
        hessian_difference_curve(hv, RANK, sizes=[0, 2])


def test_another_model_is_refused(hv):
    moved = head(0)
    with torch.no_grad():
        next(moved._runner.network.model.parameters())[0, 0] += 1e-9
    outer = hv.with_part("outer")
    first = cut(hv, 10)[0]
    for other in (moved, outer):
        with pytest.raises(InputError, match="differ in the model"):
            merge_shards([first, curve_shard(other.subset(range(10, 20)), 10, RANK)])
    assert first.model == curve_shard(head(1).subset([0]), 0, RANK).model  # samples are no part of it
