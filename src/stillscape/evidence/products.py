"""Takeuchi's criterion for any model, from products with its Gauss-Newton matrix alone."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stillscape import _checks
from stillscape._errors import InputError
from stillscape._lanczos import tridiagonal
from stillscape.curvature import PerSampleHessian
from stillscape.evidence.takeuchi import Takeuchi, from_single

NUMBERS_AT_ONCE = 100_000_000  # of Lanczos bases held together; bounds memory to a few hundred MB
_NARROW = 1e-6  # relative width at which the search for the damping ends


def takeuchi_of_products(
    outer: PerSampleHessian,
    k: int,
    *,
    damping: float | None = None,
    start: Float[Tensor, " P"] | None = None,
    groups: int = 4,
    num_vectors: int = 2,
    steps: int = 12,
    seed: int = 0,
) -> Takeuchi:
    r"""Return Takeuchi's forecast as `takeuchi` does, with no matrix formed.

        tr((H + lambda I)^(-1) G) = E u'(H + lambda I)^(-1) u,   u = n^(-1/2) sum_i e_i g_i,  e_i = +1 or -1 at random

    by Lanczos from each u (Golub and Meurant 2010, ch. 6-7). The samples are cut into `groups`, each with a u of its
    own, so that the scatter over groups holds both the choice of samples and that of signs.

    Args:
        outer: of *held-out* samples, part "outer", at the trained weights.
        k: number of training samples.
        damping: lambda; None takes MacKay's from the distance that training has gone (`self_consistent_damping`).
        start: the weights that training set out from, (P,); needed for that, and for `pull`.
        groups: of samples, at least 2.
        num_vectors: random ones for the effective dimension, at least 1.
        steps: of Lanczos. Too few make the excess too small, since the Gauss rule bounds it from below.
        seed: of the signs.

    Returns:
        the forecast.

    Raises:
        InputError: fewer samples than groups, neither damping nor start, or a vector of another length.

    Assumes: as `takeuchi`. Where P exceeds n C, H has seen only part of the directions, and those of its own gradients
        best: the forecast then depends on n and lambda, and `takeuchi_status` is what tells.

    Cost: (groups + num_vectors + 1) x steps products of each sample, and one gradient of each.

    Example:
        Least squares, l = (w x - y)^2 / 2 at w = 0, x = 1 and y = +1, -1: H = G = 1, so the excess is 1 / (2 k).

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.zero_()
        >>> loss = lambda z, y: ((z - y) ** 2).sum() / 2
        >>> x, y = torch.ones(4, 1), torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
        >>> outer = PerSampleHessian(model, loss, x, y, part="outer")
        >>> takeuchi_of_products(outer.subset([0, 1]), 10, damping=0.0, groups=2).excess
        0.05
    """
    _checks.at_least("k", k, 1)
    _checks.at_least("groups", groups, 2)
    _checks.at_least("num_vectors", num_vectors, 1)
    _checks.at_least("steps", steps, 1)
    if outer.num_samples < groups:
        raise InputError(f"groups is {groups}; there are {outer.num_samples} samples, and each group needs one.")
    if damping is None and start is None:
        raise InputError("damping and start are both None; give the penalty per sample, or where training set out.")
    generator = torch.Generator().manual_seed(seed)
    moved = None
    if start is not None:
        if start.shape != (outer.num_parameters,):
            raise InputError(f"start has shape {tuple(start.shape)}; it must be ({outer.num_parameters},).")
        moved = outer.point() - start.to(outer.device, outer.dtype)
    signs = _signs((num_vectors, outer.num_parameters), generator).to(outer.device, outer.dtype)
    starts = [*signs, *_mixed_gradients(outer, groups, generator)]
    if moved is not None:
        starts.append(moved)
    with outer.linearized():
        rules = _rules(outer, torch.stack(starts), steps)

    def dimension(value: float) -> float:
        return float(np.mean([rule.of(lambda x: x / (x + value)) for rule in rules[:num_vectors]]))

    if damping is None:
        assert moved is not None
        damping = self_consistent_damping(dimension, k, float(moved.double().norm()))
    _checks.not_negative("damping", damping)
    value = float(damping)
    single = np.array([rule.of(lambda x: 1 / (x + value)) for rule in rules[num_vectors : num_vectors + groups]])
    pull = float("nan") if moved is None else 0.5 * value**2 * rules[-1].of(lambda x: 1 / (x + value))
    known = dimension(value) if value else float("nan")
    return from_single(single, pull, known, k, value, outer.num_samples)


def self_consistent_damping(dimension: Callable[[float], float], k: int, distance: float) -> float:
    r"""Return the damping under which the parameters that the data decide account for the way that training has gone.

        lambda = d(lambda) / (k distance^2),   d(lambda) = tr(H (H + lambda I)^(-1))        (MacKay 1992, eq. 4.6)

    It is the precision, per sample, of a Gaussian prior around the start whose evidence is largest.

    Args:
        dimension: d; it must not rise with lambda.
        k: number of training samples.
        distance: from the start to the trained weights, above zero.

    Returns:
        lambda, nats per squared unit of the weights.

    Raises:
        InputError: `distance` is not above zero, or d is 0.

    Cost: some 60 evaluations of d.

    Example:
        One parameter of curvature 1 after a way of 1 with k = 2: lambda = (1 / (1 + lambda)) / 2, so 2 l^2 + 2 l = 1.

        >>> round(self_consistent_damping(lambda value: 1 / (1 + value), 2, 1.0), 5)
        0.36603
    """
    _checks.positive("distance", distance, "The weights must have moved.")
    _checks.at_least("k", k, 1)
    unit = k * distance**2
    high = dimension(0.0) / unit
    if not high > 0:
        raise InputError("dimension is 0 without damping; the surface is flat there, and no damping follows from it.")
    low = high
    while dimension(low) / unit < low:
        low /= 10.0
    while high - low > _NARROW * high:
        middle = float(np.sqrt(low * high))
        if dimension(middle) / unit < middle:
            high = middle
        else:
            low = middle
    return float(np.sqrt(low * high))


class _Rule:
    """The Gauss rule of x'f(H)x that Lanczos from x gives."""

    def __init__(self, matrix: Tensor, square: float) -> None:
        values, vectors = np.linalg.eigh(matrix.double().cpu().numpy())
        self.nodes, self.weights = np.maximum(values, 0.0), square * vectors[0] ** 2

    def of(self, function: Callable[[np.ndarray], np.ndarray]) -> float:
        """Return the rule of f; nodes without weight don't count, whatever f makes of them."""
        used = self.weights > 1e-12 * self.weights.sum()
        # Rounding leaves what is 0 of a singular H a little off it; without damping that would be all that is seen.
        used &= self.nodes > 1e-12 * self.nodes.max(initial=0.0)
        return float(self.weights[used] @ function(self.nodes[used]))


def _rules(outer: PerSampleHessian, starts: Tensor, steps: int) -> list[_Rule]:
    at_once = max(1, NUMBERS_AT_ONCE // (steps * outer.num_parameters))
    rules = []
    for first in range(0, len(starts), at_once):
        batch = starts[first : first + at_once]
        squares = batch.double().square().sum(1)
        alive = squares > 0
        matrices = iter(tridiagonal(outer.mean_matmat, batch[alive], steps) if alive.any() else ())
        rules += [_Rule(next(matrices) if square else torch.zeros(1, 1), square) for square in squares.tolist()]
    return rules


def _mixed_gradients(outer: PerSampleHessian, groups: int, generator: torch.Generator) -> list[Tensor]:
    order = torch.randperm(outer.num_samples, generator=generator)
    at_once = max(1, NUMBERS_AT_ONCE // outer.num_parameters)
    mixed = []
    for number in range(groups):
        rows = order[number::groups]
        signs = _signs((len(rows),), generator).to(outer.device, outer.dtype)
        total = torch.zeros(outer.num_parameters, dtype=outer.dtype, device=outer.device)
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            total += signs[part] @ outer.gradients(rows[part].tolist())
        mixed.append(total / len(rows) ** 0.5)
    return mixed


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, shape, generator=generator) - 1.0
