"""How far from w* does the second order explain the surface? Losses, slopes and curvatures along lines tell it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import fraction
from stillscape._errors import InputError
from stillscape.curvature.per_sample import PerSampleHessian


@dataclass(frozen=True)
class QuadraticForecast:
    """L_{k+1}(w) - L_k(w) on lines through w*, as the second order predicts it and as it is.

    Axes: D directions, R distances, K sizes k = 1..m-1, samples in their given order. All in nats.

    Attributes:
        radii: (R,) distances from w*.
        k: (K,) sizes.
        loss: (K,) the predicted difference's part that is there at w* already.
        gradient: (D, R, K) its part linear in the distance.
        hessian: (D, R, K) its quadratic part.
        predicted: (D, R, K) the sum of the three.
        true: (D, R, K) the difference itself.
        error: (R,) root mean square of predicted - true, over that of true less its part at w*; both over directions
            and sizes, each size weighted by k + 1 so that it counts alike.
        tolerance: of that error.
        explained_radius: the largest of `radii` up to which the error stays within the tolerance; or None.
    """

    radii: Float[np.ndarray, " R"]
    k: Int[np.ndarray, " K"]
    loss: Float[np.ndarray, " K"]
    gradient: Float[np.ndarray, "D R K"]
    hessian: Float[np.ndarray, "D R K"]
    predicted: Float[np.ndarray, "D R K"]
    true: Float[np.ndarray, "D R K"]
    error: Float[np.ndarray, " R"]
    tolerance: float
    explained_radius: float | None


def quadratic_forecast(
    hv: PerSampleHessian, directions: Float[Tensor, "D P"], radii: Sequence[float], tolerance: float = 0.1
) -> QuadraticForecast:
    r"""Return the second-order forecast of the next loss difference at w* + r u, against the difference itself.

    .. math:: L_{k+1}(w) - L_k(w) \approx \frac{1}{k+1}\Big[(l_{k+1} - L_k)(w^*) + r (g_{k+1} - \bar g_k)^\top u
        + \tfrac{r^2}{2} u^\top (H_{k+1} - \bar H_k) u\Big]

    (docs/theory, section 6.) With the curvature in `hv` being a part or another matrix, the quadratic term is its.

    Args:
        hv: the operator; its model's parameters are w*.
        directions: u, one a row; they are brought to length 1.
        radii: r, increasing, each above zero.
        tolerance: share of the surface's own movement that the forecast may miss.

    Raises:
        InputError: if a direction is zero, radii aren't positive and increasing, there are fewer than two samples, or
            `tolerance` isn't between 0 and 1.

    Cost: for each direction one product and one gradient of each sample, and one forward pass for each distance.

    Example:
        Least squares is quadratic, so the forecast is exact however far one goes.

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> hv = PerSampleHessian(model, lambda z, y: ((z - y) ** 2).sum(), x, torch.zeros(3, 1))
        >>> quadratic_forecast(hv, torch.ones(1, 1), [0.5, 1.0, 2.0]).explained_radius
        2.0
    """
    fraction("tolerance", tolerance)
    if hv.num_samples < 2:
        raise InputError(f"hv holds {hv.num_samples} sample; a difference needs at least two.")
    r = np.asarray(radii, dtype=np.float64)
    if r.ndim != 1 or len(r) == 0 or r[0] <= 0 or (np.diff(r) <= 0).any() or not np.isfinite(r).all():
        raise InputError(f"radii is {list(radii)}; they must be finite, above zero and increasing.")
    lengths = directions.norm(dim=-1, keepdim=True)
    if directions.ndim != 2 or directions.shape[1] != hv.num_parameters or not (lengths > 0).all():
        raise InputError(
            f"directions is {tuple(directions.shape)}; it must be (directions, {hv.num_parameters}), none of them zero."
        )
    unit = (directions / lengths).to(hv.device, hv.dtype)
    rows = range(hv.num_samples)
    slopes = _numpy(torch.stack([_slopes(hv, u) for u in unit]))
    bends = _numpy(torch.stack([hv.products(rows, u.expand(hv.num_samples, -1)) @ u for u in unit]))
    away = np.stack([np.stack([_numpy(hv.losses(shift=float(one) * u)) for one in r]) for u in unit])
    star = _numpy(hv.losses())
    return forecast_from(star, slopes, bends, away, r, tolerance)


def forecast_from(
    star: Float[np.ndarray, " m"],
    slopes: Float[np.ndarray, "D m"],
    bends: Float[np.ndarray, "D m"],
    away: Float[np.ndarray, "D R m"],
    radii: Float[np.ndarray, " R"],
    tolerance: float,
) -> QuadraticForecast:
    """Return the forecast from per-sample losses, slopes and curvatures along unit directions."""
    loss = _differences(star)
    gradient = radii[:, None] * _differences(slopes)[:, None]
    hessian = radii[:, None] ** 2 / 2 * _differences(bends)[:, None]
    predicted, true = loss + gradient + hessian, _differences(away)
    k = np.arange(1, len(star))
    missed, moved = ((k + 1) * (predicted - true)) ** 2, ((k + 1) * (true - loss)) ** 2
    error = np.sqrt(missed.mean((0, 2)) / np.maximum(moved.mean((0, 2)), np.finfo(float).tiny))
    within = np.cumprod(error <= tolerance).sum()
    reach = float(radii[within - 1]) if within > 0 else None
    return QuadraticForecast(radii, k, loss, gradient, hessian, predicted, true, error, tolerance, reach)


def _differences(values: Float[np.ndarray, "*rest m"]) -> Float[np.ndarray, "*rest K"]:
    """Return M_{k+1} - M_k of the running means M_k along the last axis."""
    means = values.cumsum(-1) / np.arange(1, values.shape[-1] + 1)
    return np.diff(means, axis=-1)


def _slopes(hv: PerSampleHessian, u: Float[Tensor, " P"]) -> Float[Tensor, " m"]:
    # Gradients of a few samples at a time: all of them together may be more than memory holds.
    at_once = max(1, hv.memory_bytes // (8 * hv.num_parameters))
    starts = range(0, hv.num_samples, at_once)
    return torch.cat([hv.gradients(range(s, min(s + at_once, hv.num_samples))) @ u for s in starts])


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()
