"""A linear softmax head alone: its Hessian has a closed form, and so a bound that needs the features only."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from stillscape._errors import InputError


def softmax_head(features: ArrayLike, has_bias: bool = True) -> Float[np.ndarray, " n"]:
    r"""Return a bound on the spectral norm of the cross-entropy Hessian of a linear head, for each sample.

        H = (x x') (x) Sigma_p,   ||H|| = ||x||^2 ||Sigma_p|| <= ||x||^2 / 2      (x with a 1 behind it for a bias)

    (docs/theory, head.) ||Sigma_p|| <= 1/2 for every softmax p, attained at two classes of probability 1/2 each. H is
    positive semidefinite, so that the largest over all samples also bounds ||H_{k+1} - mean(H_1..H_k)||, at every k.

    Args:
        features: what the head is applied to, (n, d).
        has_bias: whether the head adds a bias.

    Returns:
        one bound for each sample, at any weights of the head.

    Raises:
        InputError: `features` isn't a matrix of finite numbers.

    Cost: O(n d).

    >>> softmax_head([[3.0, 4.0]]).item()
    13.0
    """
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise InputError(f"features has shape {x.shape}; it must be (n, d), one row a sample, all of it finite.")
    return (np.square(x).sum(1) + has_bias) / 2
