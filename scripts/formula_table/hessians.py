"""Errors of closed-form Hessians: against automatic differentiation and against central differences."""

import math

import torch
from tests.hessian.cases import LAYERS, random_case
from tests.hessian.oracles import finite_difference_hessian, relative_error

from scripts.formula_table.measure import EXACT, generator, largest, normal, some, worst
from stillscape.hessian import reference

LIMITS = {"autodiff": EXACT, "differences": 1e-6}
STEP = 1e-5
PARTS = ("full", "outer", "functional")
SA, BLOCK, CHAIN = LAYERS
#: The tests that most closed forms are held to.
FORMS, PAIRS = "exact:dense_mean_and_products_are_the_derivatives", "exact:every_block_of_every_part"


def by_differences(case):
    """Return the Hessian by part from central differences: of outputs, of gradients at the output, of gradients."""
    theta, F = reference.flatten(case.params), case.F

    def slope(at):
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(case.loss_at_output(leaf).sum(), leaf)[0]

    def central(function, at, units):
        return torch.stack([(function(at + STEP * u) - function(at - STEP * u)) / (2 * STEP) for u in units], -1)

    J = central(lambda t: case.output(reference.unflatten(t, case.params)), theta, torch.eye(len(theta)).to(theta))
    B = central(slope, F, torch.eye(F[0].numel()).to(F).reshape(-1, 1, *F.shape[1:]))
    J, B = J.flatten(1, 2), B.flatten(1, 2)
    full, outer = finite_difference_hessian(case.losses, case.params, STEP), J.mT @ B @ J
    return {"full": full, "outer": outer, "functional": full - outer}


def places(h):
    """Return the rows of the Hessian that belong to each parameter."""
    sizes = [math.prod(shape) for shape in h.shapes.values()]
    return dict(zip(h.shapes, torch.arange(sum(sizes)).split(sizes), strict=True))


def block_of(H, rows, columns):
    """Return the block of every sample's matrix."""
    return H[:, rows][:, :, columns]


def whole(layer, share, count=30, differences=0, **named):
    """Measure the dense Hessian, all its parts; no block can be further off on the scale of the whole."""
    count = some(count, share)
    cases = [random_case(seed, layer, **named) for seed in range(count)]
    checks = [largest("autodiff", [dense_error(case, case.closed_form()) for case in cases], EXACT)]
    if differences:
        errors = [
            relative_error(case.closed_form().dense(), finite_difference_hessian(case.losses, case.params))
            for case in cases[:differences]
        ]
        checks.append(largest("differences", errors, LIMITS["differences"]))
    return f"{count} cases", checks


def every(layers, error, share, count=20, **named):
    """Measure `error(case, h)` over cases of several layers."""
    cases = [random_case(seed, layer, **named) for layer in layers for seed in range(some(count, share))]
    return f"{len(cases)} cases", [largest("autodiff", [error(case, case.closed_form()) for case in cases], EXACT)]


def error_of_parts(case, got, want, scale):
    """Return the largest error of `got(part)` against `want(true Hessian)`."""
    return worst([relative_error(got(part), want(case.hessians[part]), scale) for part in PARTS])


def dense_error(case, h):
    """Return the error of the dense matrix."""
    return error_of_parts(case, h.dense, lambda H: H, case.hessians["full"])


def product_error(case, h):
    """Return the error of products with a vector."""
    v = normal(generator(1), h.num_parameters)
    scale = case.hessians["full"].norm(dim=(1, 2))[:, None] * v.norm()
    return error_of_parts(case, lambda part: h.matvec(v, part), lambda H: H @ v, scale)


def mean_error(case, h):
    """Return the error of the mean over samples."""
    scale = case.hessians["full"].norm(dim=(1, 2)).max()[None, None]
    return error_of_parts(case, lambda part: h.mean(part)[None], lambda H: H.mean(0)[None], scale)


def block_error(case, h, names):
    """Return the error of the blocks of some parameters with each other."""
    rows = torch.cat([rows for name, rows in places(h).items() if name in names])

    def own(H):
        return block_of(H, rows, rows)

    return error_of_parts(case, lambda part: own(h.dense(part)), own, case.hessians["full"])


def factor_error(case, h):
    """Return the error of F'F."""
    F = h.outer_factor()
    return relative_error(F.mT @ F, case.hessians["outer"])


def norm_error(case, h):
    """Return the error of the spectral norm by Lanczos."""
    return relative_error(h.spectral_norm()[:, None], torch.linalg.matrix_norm(case.hessians["full"], ord=2)[:, None])


def gradient_error(case, h):
    """Return the error of the gradient."""
    return relative_error(h.gradient(), case.gradient)
