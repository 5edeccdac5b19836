"""The rows of section 9: curvature without matrices."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from scripts.formula_table.measure import EXACT, Check, generator, largest, normal, some
from scripts.formula_table.row import Row, row
from stillscape._lanczos import tridiagonal
from stillscape.curvature import PerSampleHessian, hessian_difference_curve, trace
from stillscape.curvature.density import quadrature
from stillscape.curvature.low_rank import orthonormal, symmetric_from


def network(seed, samples=4):
    """Return a small network with an affine LayerNorm, inputs and labels, float64."""
    gen = generator(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(normal(gen, *p.shape))
    return model, normal(gen, samples, 4), torch.arange(samples) % 3


def dense(loss, params):
    """Return a Hessian by double backward, row by row."""
    first = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params, create_graph=True)])
    rows = [torch.autograd.grad(g, params, retain_graph=True, materialize_grads=True) for g in first]
    return torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])


def products(part, share):
    """Compare all columns of one sample with double backward; the parts by what they must add up to."""
    errors = []
    for seed in range(some(20, share)):
        model, x, y = network(seed)
        truth = dense(F.cross_entropy(model(x[:1]), y[:1]), list(model.parameters()))
        if part != "full":
            z = model(x[:1])[0]
            rows = [torch.autograd.grad(one, list(model.parameters()), retain_graph=True) for one in z]
            jacobian = torch.stack([torch.cat([r.reshape(-1) for r in row]) for row in rows])
            p = torch.softmax(z.detach(), 0)
            outer = jacobian.mT @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
            truth = outer if part == "outer" else truth - outer
        hv = PerSampleHessian(model, F.cross_entropy, x, y, part=part, check=False)
        found = hv.sample_matmat([0], torch.eye(hv.num_parameters, dtype=torch.float64))[0]
        errors.append((found - truth).norm() / truth.norm())
    return f"{len(errors)} networks", [largest("autodiff", errors, EXACT)]


def subspace(share):
    """Compare with the matrix less its part outside the subspace on both sides."""
    errors = []
    for seed in range(some(100, share)):
        gen = generator(seed)
        half = normal(gen, 30, 30)
        matrix = half + half.mT
        basis = orthonormal(normal(gen, 4, 30), 4)
        outside = torch.eye(30, dtype=torch.float64) - basis.mT @ basis
        rows, values = symmetric_from(basis, basis @ matrix, 8)
        truth = matrix - outside @ matrix @ outside
        errors.append(((rows.mT * values) @ rows - truth).norm() / truth.norm())
    return f"{len(errors)} draws", [largest("error", errors, EXACT)]


def curve(share):
    """Compare the one-pass norms with dense ones at every k."""
    errors = {"spectral": [], "frobenius": []}
    count = some(6, share)
    for seed in range(count):
        model, x, y = network(seed, samples=12)
        hv = PerSampleHessian(model, F.cross_entropy, x, y, check=False)
        h = hv.sample_matmat(range(12), torch.eye(hv.num_parameters, dtype=torch.float64))
        found = hessian_difference_curve(hv, seed=seed)
        gaps = [h[k] - h[:k].mean(0) for k in range(1, 12)]
        for name, order in (("spectral", 2), ("frobenius", "fro")):
            truth = torch.stack([torch.linalg.matrix_norm(gap, order) for gap in gaps])
            errors[name].append(((getattr(found, name) - truth) / truth).abs().max())
    return f"{count} networks, every k", [largest(name, worst, 0.05) for name, worst in errors.items()]


def traces(share):
    """Look for a bias of the estimate over many draws, in its own standard errors."""
    model, x, y = network(0)
    hv = PerSampleHessian(model, F.cross_entropy, x, y, check=False)
    truth = hv.mean_matmat(torch.eye(hv.num_parameters, dtype=torch.float64)).trace()
    count = some(400, share)
    draws = torch.tensor([trace(hv, num_vectors=6, seed=seed).value for seed in range(count)], dtype=torch.float64)
    bias = (draws.mean() - truth).abs() / (draws.std() / count**0.5)
    return f"{count} draws", [Check("bias / its error", float(bias), 4.0)]


def moments(share):
    """Compare the quadrature's moments with those of the matrix."""
    errors = []
    for seed in range(some(100, share)):
        gen = generator(seed)
        half = normal(gen, 12, 12)
        matrix, v = (half + half.mT) / 12**0.5, normal(gen, 1, 12)
        nodes, weights = quadrature(tridiagonal(lambda u, m=matrix: u @ m, v, 3))
        for power in range(6):
            truth = (v @ torch.linalg.matrix_power(matrix, power) @ v.mT).item() / v.square().sum().item()
            errors.append(abs((weights * nodes**power).sum().item() - truth) / 4**power)
    return f"{len(errors)} moments", [largest("error / reach^p", errors, EXACT)]


def rows() -> Iterator[Row]:
    """Yield the rows."""
    for part in ("full", "outer", "functional"):
        yield row(
            f"H_i v, {part}", "9.1", "curvature.PerSampleHessian", "products:every_part_of_an_encoder", products, part
        )
    yield row("QB' + BQ' - Q(Q'B)Q'", "9.2", "curvature.low_rank.symmetric_from", "curve:every_k", subspace)
    yield row("norms of H_{k+1} - mean, one pass", "9.3", "curvature.hessian_difference_curve", "curve:every_k", curve)
    yield row("trace, leaving one out", "9.4", "curvature.trace", "trace:unbiased_and_covered", traces)
    name = "density:moments_are_those_of_the_start_vectors"
    yield row("moments by Lanczos", "9.5", "curvature.spectral_density", name, moments)
