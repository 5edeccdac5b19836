"""Leading pairs where Krylov spaces end early: repeated eigenvalues, low ranks, a batch of which one part ends."""

import pytest
import torch

from stillscape._lanczos import lanczos, leading_pairs
from tests.curvature.fakes import MatrixOperator

DOUBLE = torch.float64


def found_in(spectrum, count, tol=1e-8, max_steps=100, seed=0, dtype=DOUBLE):
    """Return the pairs of one matrix in a random basis, the matrix, and how many products were spent."""
    hv = MatrixOperator(torch.as_tensor(spectrum, dtype=DOUBLE))
    matrix, spent = hv.matrix.to(dtype), []

    def product(v):
        spent.append(len(v))
        return v @ matrix

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(1, len(matrix), generator=generator, dtype=dtype)
    return leading_pairs(product, start, count, tol, max_steps, generator), matrix, len(spent)


@pytest.mark.parametrize(
    ("spectrum", "count"),
    [
        ([6, 6, 6], 3),  # one step uses the space up
        ([6, 6, 5, 1], 2),  # the second copy is larger than what the first space has
        ([6, 6, 6, 1, 1, 1], 3),
        ([5, -5, -5, 5, 2, 0, 0, 0], 5),
        ([3, 2, 1] + 20 * [0], 9),  # zeros, each with a residual of its own
        (7 * [0], 3),
        ([4, 4, 3, 3, 2, 2, 1, 1], 8),  # all there are
        ([6, 5, 4, 3, 2, 1], 6),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_every_copy_is_found(spectrum, count, seed):
    found, matrix, _ = found_in(spectrum, count, seed=seed)
    assert bool(found.complete)
    magnitudes = torch.tensor(spectrum, dtype=DOUBLE).abs().sort(descending=True).values[:count]
    torch.testing.assert_close(found.values[0].abs(), magnitudes, rtol=1e-9, atol=1e-9)
    vectors = found.vectors[0]
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(count, dtype=DOUBLE), rtol=0, atol=1e-9)
    gaps = (vectors @ matrix - found.values[0][:, None] * vectors).norm(dim=1)
    assert (gaps <= found.residuals[0] + 1e-12 * magnitudes[0]).all()


def test_float32_says_the_same():
    found, _, _ = found_in([6, 6, 6, 1, 1], 4, tol=1e-3, dtype=torch.float32)
    assert bool(found.complete)
    torch.testing.assert_close(found.values[0], torch.tensor([6.0, 6.0, 6.0, 1.0]), rtol=1e-4, atol=0)


def test_what_steps_did_not_allow_is_said():
    """The space ends after two steps with the values 6 and 1, and the second copy of 6 takes a third."""
    found, _, spent = found_in([6, 6, 1, 1], 2, max_steps=2)
    assert spent == 2
    assert not bool(found.complete)
    assert bool(found_in([6, 6, 1, 1], 2, max_steps=4)[0].complete)


def test_a_space_that_goes_on_costs_no_more_for_it():
    """Distinct eigenvalues: steps until residuals are small, as Lanczos alone takes, whatever lies beyond."""
    spectrum = 0.5 ** torch.arange(60.0)
    found, matrix, spent = found_in(spectrum, 2, tol=1e-3)
    start = torch.randn(1, 60, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    krylov, steps = start / start.norm(), 0
    while True:  # the same space, spanned naively
        steps += 1
        q = torch.linalg.qr(krylov.mT)[0]
        values, coordinates = torch.linalg.eigh(q.mT @ matrix @ q)
        ritz = q @ coordinates[:, -2:]
        residuals = (matrix @ ritz - ritz * values[-2:]).norm(dim=0)
        if steps > 1 and (residuals <= 1e-3 * values[-1]).all():
            break
        krylov = torch.cat([krylov, (q[:, -1:].mT @ matrix)])
    assert spent == steps
    assert bool(found.complete)


def test_a_batch_of_which_one_ends_early():
    matrices = torch.stack([torch.diag(torch.tensor(d, dtype=DOUBLE)) for d in ([6, 6, 6, 6, 0], [5, 4, 3, 2, 1])])
    start = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    values, _, _ = lanczos(lambda v: torch.einsum("bp,bpq->bq", v, matrices), start, 3, 1e-8, 50)
    torch.testing.assert_close(values, torch.tensor([[6.0, 6.0, 6.0], [5.0, 4.0, 3.0]], dtype=DOUBLE))
