"""The density of the mean Hessian's spectrum: where its eigenvalues lie, and how many of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, positive
from stillscape._lanczos import tridiagonal
from stillscape.curvature.estimate import gaussian, mean_and_stderr
from stillscape.curvature.per_sample import PerSampleHessian

WIDTH = 0.01  # of the kernel, relative to the spectrum's reach, unless given


@dataclass(frozen=True)
class SpectralDensity:
    """A smoothed density, and the quadrature that it comes from.

    Attributes:
        grid: eigenvalues, increasing by the width of a cell; each is the middle of its own.
        density: share of the P eigenvalues per unit, averaged over each cell: its sum times the width is 1.
        stderr: its standard error over the random vectors; not a number where there is only one.
        nodes: Ritz values of each random vector; (v, s).
        weights: their weights, which sum to 1 for each vector; (v, s).
        sigma: width of the Gaussian kernel.
        num_sample_products: products of one sample with one vector that were spent.
    """

    grid: Float[Tensor, " g"]
    density: Float[Tensor, " g"]
    stderr: Float[Tensor, " g"]
    nodes: Float[Tensor, "v s"]
    weights: Float[Tensor, "v s"]
    sigma: float
    num_sample_products: int


def spectral_density(
    hv: PerSampleHessian,
    num_vectors: int = 8,
    steps: int = 40,
    *,
    points: int = 1000,
    sigma: float | None = None,
    seed: int = 0,
) -> SpectralDensity:
    r"""Return the density of eigenvalues of the mean Hessian by stochastic Lanczos quadrature.

    .. math:: \phi(t) = \frac1v \sum_{j=1}^v \sum_{i=1}^s \tau_{ij}\, g_\sigma(t - \theta_{ij})

    with Ritz values :math:`\theta` and weights :math:`\tau`, squares of the first entries of the tridiagonal matrix's
    eigenvectors (Golub and Welsch 1969; Ubaru, Chen, Saad 2017, alg. 1; Ghorbani, Krishnan, Xiao 2019, alg. 1). What is
    reported is the mean of :math:`\phi` over each cell of the grid, so that no kernel is too narrow to be seen.

    Args:
        hv: the operator.
        num_vectors: v, random vectors; they step together. One tells no standard error.
        steps: s of Lanczos, fully reorthogonalized.
        points: of the grid.
        sigma: of the kernel; a hundredth of the spectrum's reach unless given.
        seed: of the vectors.

    Raises:
        InputError: if a number is out of range.

    Cost: v x s products of each sample; memory v x s vectors.

    Example:
        The Hessian 2 x^2 = 18 is the only eigenvalue.

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> hv = PerSampleHessian(model, lambda z, y: (z ** 2).sum(), torch.tensor([[3.0]]), None)
        >>> found = spectral_density(hv, num_vectors=2)
        >>> found.nodes.flatten().tolist(), found.weights.flatten().tolist()
        ([18.0, 18.0], [1.0, 1.0])
    """
    at_least("num_vectors", num_vectors, 1)
    at_least("points", points, 2)
    before = hv.num_sample_products
    generator = torch.Generator().manual_seed(seed)
    start = gaussian(hv, num_vectors, hv.num_parameters, generator)
    with hv.linearized():
        matrices = tridiagonal(hv.mean_matmat, start, min(at_least("steps", steps, 1), hv.num_parameters))
    nodes, weights = quadrature(matrices)
    reach = float(nodes.max() - nodes.min()) or float(nodes.abs().max()) or 1.0
    width = WIDTH * reach if sigma is None else positive("sigma", sigma)
    margin = max(5 * width, WIDTH * reach)  # a narrow kernel needs room for its cell, and one eigenvalue for a grid
    grid = torch.linspace(float(nodes.min()) - margin, float(nodes.max()) + margin, points, dtype=torch.float64)
    each = (weights[..., None] * cell_averages(grid, nodes, width)).sum(1)
    density, stderr = mean_and_stderr(each)
    return SpectralDensity(grid, density, stderr, nodes, weights, width, hv.num_sample_products - before)


def quadrature(matrices: Float[Tensor, "v s s"]) -> tuple[Float[Tensor, "v s"], Float[Tensor, "v s"]]:
    """Return nodes and weights of the Gauss quadrature that belongs to tridiagonal matrices."""
    nodes, vectors = torch.linalg.eigh(matrices.double().cpu())
    return nodes, vectors[:, 0].square()


def cell_averages(grid: Float[Tensor, " g"], nodes: Float[Tensor, "v s"], sigma: float) -> Float[Tensor, "v s g"]:
    """Return the means over the cells of an even grid of the normal density around each node.

    Example:
        >>> grid = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
        >>> cell_averages(grid, torch.ones(1, 1, dtype=torch.float64), sigma=1e-9).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    width = grid[1] - grid[0]
    far = (grid - nodes[..., None]).abs()  # upper tails are lower ones: erfc keeps its digits there, and ndtr doesn't
    near, beyond = (torch.special.erfc((far + side * width / 2) / (sigma * 2**0.5)) for side in (-1, 1))
    return (near - beyond) / (2 * width)
