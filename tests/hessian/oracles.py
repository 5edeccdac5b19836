"""What the automatic derivatives are held against: differences of gradients and of values, and one way to compare."""

import torch

from stillscape.hessian import reference


def finite_difference_hessian(losses, params, step=1e-5):
    """Return (n, P, P) by central differences of gradients: column k is (g(w + h e_k) - g(w - h e_k)) / 2h."""
    theta = reference.flatten(params)
    columns = []
    for unit in torch.eye(len(theta), dtype=theta.dtype):
        ahead, behind = (gradients(losses, params, theta + sign * step * unit) for sign in (1, -1))
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, -1)


def value_difference_hessian(losses, params, step=1e-4):
    """Return (n, P, P) from values alone, by the four corners of each pair of directions; P^2 passes: for small P."""
    theta = reference.flatten(params)
    steps = step * torch.eye(len(theta), dtype=theta.dtype)

    def at(change):
        return losses(reference.unflatten(theta + change, params))

    rows = [torch.stack([at(a + b) - at(a - b) - at(b - a) + at(-a - b) for b in steps], -1) for a in steps]
    return torch.stack(rows, 1) / (4 * step**2)


def gradients(losses, params, theta):
    """Return (n, P), by reverse mode."""
    leaf = theta.clone().requires_grad_()
    values = losses(reference.unflatten(leaf, params))
    return torch.stack(
        [torch.autograd.grad(value, leaf, retain_graph=True, materialize_grads=True)[0] for value in values]
    )


def relative_error(got, want, scale=None):
    """Return the largest ||got_i - want_i||_F / ||scale_i||_F over samples i; scale: want, unless a larger whole.

    A part of a Hessian is compared on the scale of the whole: it may be zero, or a small difference of large numbers.
    """
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert got.dtype == want.dtype
    error = (got - want).flatten(1).norm(dim=1)
    size = (want if scale is None else scale).flatten(1).norm(dim=1)
    # 0 of 0 is no error; anything else of 0 is infinite, and NaN stays NaN.
    return float(torch.where((error == 0) & (size == 0), torch.zeros_like(error), error / size).max())
