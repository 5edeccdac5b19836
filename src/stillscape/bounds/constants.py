r"""Sharp constants of softmax, layer normalization and the activations; every bound of this package reads them here.

For a row a = softmax(t) with S = diag(a) - aa' and D the third cumulant of the attended token (docs/theory, section 3):

    ||S|| <= max_j 2 a_j (1 - a_j) <= 1/2                                          (Lemma 1, attained at (1/2, 1/2))
    |D[u, v, w]| <= sqrt(6)/9 |u| |v| |w|                                          (Lemma 2, attained for two tokens)

For layer normalization g(s) = Ps/tau with tau^2 = |Ps|^2/m + eps on m features:

    ||Dg|| <= 1/tau,    ||D^2 g|| <= (2/sqrt 3) / (sqrt(m) tau^2)                  (Lemma 3, attained at eps = 2 var)
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, one_of

#: Largest spectral norm of the Jacobian of softmax.
SOFTMAX_JACOBIAN = 0.5
#: Largest value of the second derivative of softmax on three unit vectors.
SOFTMAX_SECOND = math.sqrt(6.0) / 9.0
#: Largest ||D^2 g|| sqrt(m) tau^2 of layer normalization.
LAYER_NORM_SECOND = 2.0 / math.sqrt(3.0)
#: Largest |sigma'| of GELU, at u = sqrt 2, where sigma'' = (2 - u^2) phi vanishes: Phi(sqrt 2) + sqrt 2 phi(sqrt 2).
GELU_SLOPE = 0.5 * (1.0 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi)
#: Largest |sigma''| of GELU, at u = 0.
GELU_CURVATURE = math.sqrt(2.0 / math.pi)
#: Largest ||p - y|| of probabilities p and a one-hot label y.
PROBABILITY_RESIDUAL = math.sqrt(2.0)


def softmax_jacobian_norm(a: Float[Tensor, "*rows L"]) -> Float[Tensor, "*rows"]:
    r"""Return max_j 2 a_j (1 - a_j) of each row, a bound on the norm of the Jacobian diag(a) - aa' of softmax.

    By Gershgorin's circles; sharp for two tokens, never above 1/2 (docs/theory, Lemma 1).

    Args:
        a: rows of probabilities, each with sum 1.

    Returns:
        the bound of each row.

    Cost: O(L) for each row.

    >>> softmax_jacobian_norm(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).tolist()
    [0.5, 0.0]
    """
    # 1 - a loses its digits only beside a = 1, and only the largest entry can be there: sum up the others instead.
    largest, place = a.max(-1, keepdim=True)
    others = a.scatter(-1, place, 0.0)
    top = 2.0 * largest.squeeze(-1) * others.sum(-1)
    return torch.maximum(top, (2.0 * others * (1.0 - others)).amax(-1))


def attention_norm(A: Float[Tensor, "*n L L"]) -> Float[Tensor, "*n"]:
    r"""Return a bound on ||A|| of a matrix of attention: the root of its largest column sum, at most sqrt(L).

    ||A||^2 <= ||A||_1 ||A||_inf, and rows have sum 1 (docs/theory, Lemma 4). The printed ||A|| <= 1 is false.

    Args:
        A: attention; rows are probabilities.

    Returns:
        the bound of each matrix.

    Cost: O(L^2) for each matrix.

    >>> attention_norm(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).square().round(decimals=6).item()
    2.0
    """
    return A.sum(-2).amax(-1).sqrt()


def layer_norm_norms(tau: Float[Tensor, "*n"], features: int) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    r"""Return bounds on the first and second derivative of s -> Ps/tau: 1/tau and (2/sqrt 3)/(sqrt(m) tau^2).

    Scale and shift are not in it (docs/theory, Lemma 3). The first is attained from m = 3 on, the second from m = 2.

    Args:
        tau: sqrt(var + eps), above zero; the smallest one gives a bound over all tokens.
        features: m, the number of features.

    Returns:
        the two bounds, in the shape of `tau`.

    Raises:
        InputError: `features` is no whole number of at least 1.

    >>> first, second = layer_norm_norms(torch.tensor(0.5), 4)
    >>> first.item(), round(second.item() ** 2, 4)  # (2/sqrt 3 / (2 * 0.25))^2 = 16/3
    (2.0, 5.3333)
    """
    at_least("features", features, 1)
    return 1.0 / tau, LAYER_NORM_SECOND / (math.sqrt(features) * tau.square())


def activation_norms(activation: str) -> tuple[float, float]:
    """Return the largest |sigma'| and |sigma''| of "linear", "relu" or "gelu"; ReLU's second only holds off its kink.

    >>> activation_norms("relu")
    (1.0, 0.0)
    """
    norms = {"linear": (1.0, 0.0), "relu": (1.0, 0.0), "gelu": (GELU_SLOPE, GELU_CURVATURE)}
    return norms[one_of("activation", activation, tuple(norms))]
