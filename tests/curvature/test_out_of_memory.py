"""Memory that runs out in products with Hessians: they go on in halves, to the same numbers, and say so once."""

import logging

import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import RunError
from stillscape.curvature import PerSampleHessian, hessian_difference_curve
from stillscape.curvature.graph import Graph
from stillscape.curvature.network import Network
from stillscape.curvature.samples import length
from tests.curvature.networks import CLASSES, DOUBLE, filled

SAMPLES = 21
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
]


def operator():
    model = filled(torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, CLASSES)))
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return PerSampleHessian(model, F.cross_entropy, x, torch.arange(SAMPLES) % CLASSES)


def short_of_memory(monkeypatch, room, error=ERRORS[0]):
    """Let forward passes of more than `room` samples fail; return how often they did."""
    refused = []
    for name in ("each", "batch"):
        run = getattr(Network, name)

        def limited(self, leaves, x, y, run=run):
            if length(x) > room:
                refused.append(length(x))
                raise error
            return run(self, leaves, x, y)

        monkeypatch.setattr(Network, name, limited)
    return refused


def measured(hv):
    vectors = torch.randn(3, hv.num_parameters, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    rows = list(range(2, SAMPLES))
    own = vectors[0] + torch.arange(len(rows))[:, None]
    with hv.linearized():
        means = [hv.mean_matmat(vectors), hv.mean_gradient(), hv.mean_gradient(rows, vectors[0])]
        return [*means, hv.sample_matmat(rows, vectors), hv.products(rows, own), hv.gradients(rows), hv.losses(rows)]


@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu"])
@pytest.mark.parametrize("room", [10, 3, 1])
def test_everything_is_as_undisturbed(monkeypatch, caplog, room, error):
    undisturbed = measured(operator())
    hv = operator()
    refused = short_of_memory(monkeypatch, room, error)
    with caplog.at_level(logging.WARNING, "stillscape"):
        found = measured(hv)
    for got, expected in zip(found, undisturbed, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    said = [record.getMessage() for record in caplog.records if "memory ran out" in record.getMessage()]
    assert said == ["memory ran out with 21 samples at a time; products go on with half as many."]
    assert refused == {10: [21], 3: [21, 10, 5], 1: [21, 10, 5, 2]}[room]  # what was learned holds from then on


def test_what_is_derived_has_learned_it_too(monkeypatch):
    hv = operator()
    refused = short_of_memory(monkeypatch, 10)
    hv.mean_matvec(torch.ones(hv.num_parameters))
    hv.with_part("outer").mean_matvec(torch.ones(hv.num_parameters))
    hv.subset(range(15)).gradients()
    assert refused == [21]


def test_a_product_that_fails_in_the_middle_counts_no_sample_twice(monkeypatch):
    """The second vector's product fails, when the first has been added already."""
    hv = operator()
    vectors = torch.randn(4, hv.num_parameters, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    means, each = hv.mean_matmat(vectors), hv.sample_matmat(range(SAMPLES), vectors)
    calls, product = [], Graph.product

    def failing(self, direction):
        calls.append(1)
        if len(calls) == 2:
            raise ERRORS[0]
        return product(self, direction)

    monkeypatch.setattr(Graph, "product", failing)
    torch.testing.assert_close(hv.mean_matmat(vectors), means, rtol=1e-12, atol=1e-14)
    calls.clear()
    torch.testing.assert_close(hv.sample_matmat(range(SAMPLES), vectors), each, rtol=1e-12, atol=1e-14)


def test_the_curve_over_k(monkeypatch):
    whole = hessian_difference_curve(operator(), 3)
    hv = operator()
    short_of_memory(monkeypatch, 4)
    torch.testing.assert_close(hessian_difference_curve(hv, 3).spectral, whole.spectral, rtol=1e-10, atol=0)


def test_one_sample_that_does_not_fit_is_said(monkeypatch):
    hv = operator()
    short_of_memory(monkeypatch, 0)
    with pytest.raises(RunError, match="product with the Hessian of a single sample"):
        hv.gradients()


def test_other_errors_pass(monkeypatch):
    hv = operator()
    short_of_memory(monkeypatch, 0, RuntimeError("odd"))
    with pytest.raises(RuntimeError, match="odd"):
        hv.gradients()
