"""One set of products: exact where the rank is low, unbiased by blocks, errors that cover, ratios of two estimates."""

import pytest
import torch

from stillscape.curvature.leave_one_out import Complete, Draws, LeaveOneOut, leave_one_out
from tests.curvature.fakes import SIZE, SPECTRA, MatrixOperator
from tests.curvature.networks import DOUBLE

VECTORS, SEEDS = 10, 300
T_95 = 2.26  # Student's t of 9 degrees of freedom
OWN, OTHER = torch.arange(10, 45), torch.cat([torch.arange(10), torch.arange(45, SIZE)])


def measure(hv, seed=0, own=slice(None), num_vectors=VECTORS):
    return leave_one_out(hv, num_vectors, torch.Generator().manual_seed(seed), own)


def low_rank(rank, dtype):
    operator = MatrixOperator(torch.cat([torch.linspace(-2, 3, rank, dtype=DOUBLE), torch.zeros(SIZE - rank)]))
    operator.matrix, operator.dtype = operator.matrix.to(dtype), dtype
    return operator


def crossed():
    """Return a matrix whose block at OWN has rank 2, while what couples it to the others has full rank."""
    operator = MatrixOperator(SPECTRA["indefinite"])
    small = MatrixOperator(torch.tensor([2.0, -1.0] + [0.0] * (len(OWN) - 2), dtype=DOUBLE)).matrix
    operator.matrix[OWN[:, None], OWN] = small
    return operator


def statistics(draws, truth):
    """Return the distance of the mean from the truth in its standard errors, and how many intervals hold the truth."""
    means, errors = (torch.tensor(column, dtype=DOUBLE) for column in zip(*draws, strict=True))
    off = (means.mean() - truth).abs() / (means.std() / len(means) ** 0.5)
    return off.item(), ((means - truth).abs() <= T_95 * errors).double().mean().item()


@pytest.mark.parametrize(("dtype", "error"), [(DOUBLE, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rank", [1, 3, VECTORS - 1])
def test_exact_for_ranks_below_the_number_of_vectors(rank, dtype, error):
    """At rank m - 1 each projection that leaves one vector out still holds all there is: by the last digit, if any."""
    hv = low_rank(rank, dtype)
    truth = hv.matrix.double()
    for seed in range(5):
        found = measure(hv, seed)
        assert isinstance(found, LeaveOneOut)
        assert found.rank == rank
        for draws, value in ((found.trace(), truth.trace()), (found.square(), truth.square().sum())):
            assert abs(draws.mean() - value) < error * truth.square().sum()
            assert draws.stderr() < error * truth.square().sum()


@pytest.mark.parametrize("spectrum", ["flat", "decaying", "heavy", "indefinite"])
def test_blocks_are_unbiased_and_covered(spectrum):
    """Columns at OWN: their square block, and the block that couples them to the others."""
    hv = MatrixOperator(SPECTRA[spectrum])
    found = [measure(hv, seed, OWN) for seed in range(SEEDS)]
    own, cross = hv.matrix[OWN][:, OWN], hv.matrix[OTHER][:, OWN]
    for draws, truth in (
        ([f.trace() for f in found], own.trace()),
        ([f.square(OWN) for f in found], own.square().sum()),
        ([f.square(OTHER) for f in found], cross.square().sum()),
    ):
        off, inside = statistics([(d.mean(), d.stderr()) for d in draws], truth)
        assert off < 4
        assert inside > 0.88


def test_coupling_of_a_block_of_low_rank_is_covered():
    """The images at OWN tell its block exactly, and of the coupling only what lies in two directions."""
    hv = crossed()
    found = [measure(hv, seed, OWN) for seed in range(SEEDS)]
    assert max(f.square(OWN).stderr() for f in found) < 1e-10
    draws = [f.square(OTHER) for f in found]
    off, inside = statistics([(d.mean(), d.stderr()) for d in draws], hv.matrix[OTHER][:, OWN].square().sum())
    assert off < 4
    assert inside > 0.88


def test_few_columns_are_known():
    hv = MatrixOperator(SPECTRA["flat"])
    place = OWN[: 2 * VECTORS]
    found = measure(hv, own=place)
    assert isinstance(found, Complete)
    assert hv.num_sample_products == 2 * VECTORS
    assert found.trace().mean() == pytest.approx(hv.matrix[place][:, place].trace().item())
    assert found.square(OTHER).mean() == pytest.approx(hv.matrix[OTHER][:, place].square().sum().item())
    assert found.square(OTHER).stderr() == found.square(OTHER).over(found.square()).stderr() == 0


def test_a_ratio_of_two_estimates_is_covered():
    """Squares of H and of a part of it by the same vectors; what they get wrong together is no error of the ratio."""
    whole, part = MatrixOperator(SPECTRA["heavy"]), MatrixOperator(SPECTRA["heavy"])
    part.matrix = 0.8 * whole.matrix + 0.02 * MatrixOperator(SPECTRA["indefinite"], seed=1).matrix
    truth = (part.matrix.square().sum() / whole.matrix.square().sum()).item()
    pairs = [(measure(part, seed).square(), measure(whole, seed).square()) for seed in range(SEEDS)]
    ratios = [a.over(b) for a, b in pairs]
    off, inside = statistics([(r.mean(), r.stderr()) for r in ratios], truth)
    assert off < 4
    assert inside > 0.88
    alone = [truth * ((a.stderr() / a.mean()) ** 2 + (b.stderr() / b.mean()) ** 2) ** 0.5 for a, b in pairs]
    assert sum(r.stderr() for r in ratios) < 0.5 * sum(alone)


def test_ratios_at_the_edges():
    some = measure(MatrixOperator(SPECTRA["flat"])).square()
    assert some.over(some).mean() == pytest.approx(1)
    assert some.over(some).stderr() < 1e-15
    assert Draws.exact(0.0).over(Draws.exact(0.0)).root() == (0, 0)
    assert Draws.exact(4.0).root() == (2, 0)
