"""Is there a hill between two sets of weights? The loss along the straight line from one to the other."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.curvature.estimate import mean_and_stderr
from stillscape.curvature.per_sample import PerSampleHessian


@dataclass(frozen=True)
class LossBarrier:
    """The mean loss along a line, and how far it rises above the straight line between its ends.

    Attributes:
        t: where, from 0 (w) to 1 (the end).
        losses: mean losses there; nats.
        stderr: their standard errors over the samples.
        height: of the barrier; 0 where the loss stays below the chord; nats.
        height_stderr: standard error over the samples, losses of a sample being paired; of the highest point as it is.
        at: t of the highest point.
    """

    t: Float[Tensor, " points"]
    losses: Float[Tensor, " points"]
    stderr: Float[Tensor, " points"]
    height: float
    height_stderr: float
    at: float


def loss_barrier(hv: PerSampleHessian, end: Float[Tensor, " P"], points: int = 21) -> LossBarrier:
    r"""Return the loss barrier between the model's parameters w and `end`.

    .. math:: \max_t\; L(w_t) - (1-t) L(w_0) - t L(w_1), \qquad w_t = (1-t) w_0 + t w_1

    (Frankle et al. 2020, "Linear mode connectivity", sec. 2; there relative to the mean of the ends.)

    Args:
        hv: samples, loss and parameters; no Hessian is taken.
        end: the other weights, as one vector in the order of ``hv.slices``.
        points: of the line, ends included.

    Raises:
        InputError: if `end` isn't a finite vector of P numbers, or `points` is below 3.

    Cost: one forward pass for each point.

    Example:
        From w = 1 to w = -1 the loss w^2 lies below the chord; with the sign turned it rises by 1, half way.

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> hv = PerSampleHessian(model, lambda z, y: -(z ** 2).sum(), torch.ones(2, 1), None)
        >>> barrier = loss_barrier(hv, torch.tensor([-1.0]), points=3)
        >>> barrier.height, barrier.at
        (1.0, 0.5)
    """
    at_least("points", points, 3)
    if end.shape != (hv.num_parameters,) or not torch.isfinite(end).all():
        raise InputError(f"end is {tuple(end.shape)}; it must be ({hv.num_parameters},), all of it finite.")
    way = end.to(hv.device, hv.dtype) - hv.point()
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    losses = torch.stack([hv.losses(shift=float(share) * way).double().cpu() for share in t])
    above = losses - (1 - t)[:, None] * losses[0] - t[:, None] * losses[-1]
    mean, stderr = mean_and_stderr(losses.mT)
    height, height_stderr = mean_and_stderr(above.mT)
    top = int(height.argmax())
    return LossBarrier(t, mean, stderr, max(0.0, float(height[top])), float(height_stderr[top]), float(t[top]))
