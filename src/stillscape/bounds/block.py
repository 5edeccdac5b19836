"""How large the Hessian of one sample can be in the weights of a post-norm transformer block, block by block."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape import _checks
from stillscape._errors import AssumptionError, InputError
from stillscape.bounds import _attention_losses, _attention_norms, _block_a_priori, _block_measured
from stillscape.bounds._block_norms import pair_norms
from stillscape.hessian import _arguments
from stillscape.hessian.losses import MSE, CrossEntropy, Loss
from stillscape.hessian.pointwise import ACTIVATIONS
from stillscape.hessian.transformer_block import PARAMETERS

KINDS = ("data", "a_priori")
Params = Mapping[str, Tensor]
Tau = tuple[float | Float[Tensor, " n"], float | Float[Tensor, " n"]]
_CHUNK = 2**24  # numbers held at once by the matrices of all tokens


def transformer_block(
    X: Float[Tensor, "n L d"],
    params: Params,
    *,
    loss: Loss,
    activation: str = "gelu",
    eps: float = 1e-5,
    kind: str = "data",
    tau: Tau | None = None,
) -> Float[Tensor, " n"]:
    r"""Return a bound on the spectral norm of each sample's Hessian in the 11 parameters of a post-norm block.

    Z = LN_2(Y + FFN(Y)), Y = LN_1(X + AXW_V), softmax attention of one head:

        ||H|| <= ||N||    with the 11 x 11 matrix N of `transformer_block_pairs`            (docs/theory, section 5.5)

    Args:
        X: tokens of each sample.
        params: dict of W_Q, W_K (d, d_K), W_V (d, d), W_1 (d, d_f), b_1 (d_f,), W_2 (d_f, d), b_2, gamma_1, beta_1,
            gamma_2, beta_2 (d,).
        loss: MSE, CrossEntropy or OutputLoss of `stillscape.hessian`; "a_priori" takes the first two, whose gradient
            is bounded beforehand.
        activation: "gelu", "relu" or "linear". ReLU's second derivative is taken as 0, which holds off its kink: the
            bound is on the Hessian where it exists, and says nothing of a step across a kink.
        eps: of both normalizations, above zero.
        kind: "data" measures every stage, with Theorem 1''' for the attention. "a_priori" knows norms of the input and
            of the parameters only, and is orders of magnitude looser.
        tau: for "a_priori", lower bounds on sqrt(var + eps) of the tokens before the first and the second
            normalization: two numbers, or two tensors with one number for each sample. None: sqrt(eps), which always
            holds and makes the bound larger still, as tau^(-4).

    Returns:
        the bound of each sample, in the dtype of `X`; computed in float64 with an allowance of 1e-12 for its own
        rounding, and rounded upward. With two features the derivative of a normalization is what is left of a
        cancellation, of relative precision 1e-16 (var + eps)/eps, in any way of computing it.

    Raises:
        InputError: an argument does not fit the others, or `params` has an output projection or attention biases,
            which these bounds do not cover.
        AssumptionError: `tau` is above what the tokens have.

    Cost: for each sample O(L d^3 + L d_f^3 + L^2 d^2) for "data"; O(L d^2 + d d_f^2) for "a_priori".

    >>> from stillscape.hessian.losses import MSE
    >>> one = {name: torch.ones((1, 1) if "W" in name else (1,)) for name in PARAMETERS}
    >>> X = torch.ones(1, 1, 1)  # one feature: normalized to 0, so Z = beta_2 and H = 2 in beta_2 alone
    >>> round(transformer_block(X, one, loss=MSE(torch.zeros(1, 1, 1))).item(), 6)
    2.0
    """
    N = _pairs(X, params, loss, activation, eps, kind, tau)
    return _attention_norms.rounded_up(_attention_norms.block_matrix_norm(N), X.dtype)


def transformer_block_pairs(
    X: Float[Tensor, "n L d"],
    params: Params,
    *,
    loss: Loss,
    activation: str = "gelu",
    eps: float = 1e-5,
    kind: str = "data",
    tau: Tau | None = None,
) -> Float[Tensor, "n 11 11"]:
    r"""Return a bound on the spectral norm of each of the 11 x 11 blocks of each sample's Hessian.

    Rows and columns are W_Q, W_K, W_V, W_1, b_1, W_2, b_2, gamma_1, beta_1, gamma_2, beta_2:

        N_ab = beta j_a j_b + f_ab,    j_a >= ||dZ/d theta_a||,  f_ab >= ||H_f(a, b)||      (docs/theory, section 5.5)

    Where the loss reads the pooled output s'Z alone, j_a and beta are those of s'Z.

    Args:
        X: as in `transformer_block`.
        params: as in `transformer_block`; the order of its keys does not matter.
        loss: as in `transformer_block`.
        activation: as in `transformer_block`.
        eps: as in `transformer_block`.
        kind: as in `transformer_block`.
        tau: as in `transformer_block`.

    Returns:
        the matrices N, symmetric and without negative entries, in the dtype of `X`, rounded upward.

    Raises:
        InputError: as in `transformer_block`.
        AssumptionError: as in `transformer_block`.

    Cost: as `transformer_block`.

    >>> from stillscape.hessian.losses import MSE
    >>> one = {name: torch.ones((1, 1) if "W" in name else (1,)) for name in PARAMETERS}
    >>> N = transformer_block_pairs(torch.ones(1, 1, 1), one, loss=MSE(torch.zeros(1, 1, 1)))
    >>> N.round(decimals=6).nonzero().tolist(), tuple(N.shape)  # only (beta_2, beta_2)
    ([[0, 10, 10]], (1, 11, 11))
    """
    return _attention_norms.rounded_up(_pairs(X, params, loss, activation, eps, kind, tau), X.dtype)


def _pairs(
    X: Tensor, params: Params, loss: Loss, activation: str, eps: float, kind: str, tau: Tau | None
) -> Float[Tensor, "n 11 11"]:
    _checks.one_of("kind", kind, KINDS)
    _checks.one_of("activation", activation, tuple(ACTIVATIONS))
    _checks.positive("eps", eps, "It is added to the variance under the root.")
    X = _arguments.real_tensor("X", X, (None, None, None))
    exact = {name: value.double() for name, value in _checked(params, X).items()}
    own = _attention_losses.in_float64(loss, X)
    if kind == "a_priori":
        _known_beforehand(loss)
        taus = _taus(tau, X.double(), exact, activation, eps)
        return pair_norms(_block_a_priori.block_norms(X.double(), exact, own, activation, taus))
    if tau is not None:
        raise InputError('tau is given with kind "data", which measures it; leave tau out, or take "a_priori".')
    tokens, features = X.shape[1:]
    width = exact["W_1"].shape[1]
    return _in_slices(
        lambda rows: pair_norms(
            _block_measured.block_norms(X[rows].double(), exact, own.take(rows), activation, eps, X.dtype)
        ),
        len(X),
        tokens * (tokens * features + 8 * features**2 + 4 * features * width + width**2),
    )


def _in_slices(found: Callable[[slice], Tensor], samples: int, numbers_each: int) -> Tensor:
    step = max(1, _CHUNK // numbers_each)
    return torch.cat([found(slice(start, start + step)) for start in range(0, samples, step)])


def _checked(params: Params, X: Tensor) -> dict[str, Tensor]:
    """Return the eleven parameters, each of the shape that fits the input."""
    if isinstance(params, Mapping):
        extra = [name for name in params if name in ("W_O", "biases", "b_Q", "b_K", "b_V", "b_O")]
        if extra:
            raise InputError(
                f"params has {', '.join(extra)}; the bound covers one head without output projection and attention "
                "biases. Take the exact Hessian of stillscape.hessian for such a block."
            )
    _arguments.known_keys("params", params, PARAMETERS)
    d = X.shape[-1]
    keys, width = (_second_axis(name, params[name]) for name in ("W_Q", "W_1"))
    shapes: dict[str, tuple[int | None, ...]] = dict.fromkeys(PARAMETERS, (d,))
    shapes |= {"W_Q": (d, keys), "W_K": (d, keys), "W_V": (d, d), "W_1": (d, width), "b_1": (width,), "W_2": (width, d)}
    return {name: _arguments.real_tensor(name, params[name], shapes[name], X) for name in PARAMETERS}


def _second_axis(name: str, value: Tensor) -> int | None:
    return value.shape[1] if isinstance(value, Tensor) and value.ndim == 2 else None


def _known_beforehand(loss: Loss) -> None:
    if not isinstance(loss, MSE | CrossEntropy):
        raise InputError(
            f'kind is "a_priori" and loss a {type(loss).__name__}; its gradient and Hessian are known at one output '
            'only. Take MSE or CrossEntropy, or kind "data".'
        )


def _taus(tau: Tau | None, X: Tensor, params: Params, activation: str, eps: float) -> tuple[Tensor, Tensor]:
    """Return the two lower bounds on tau, never below sqrt(eps), after comparing what is claimed with what is."""
    least = torch.full((len(X),), math.sqrt(eps), dtype=X.dtype, device=X.device)
    if tau is None:
        return least, least
    if not isinstance(tau, tuple | list) or len(tau) != 2:
        raise InputError(f"tau is {tau!r}; it must be a pair, one for each normalization, or None for sqrt(eps).")
    measured = _block_measured.smallest_taus(X, params, activation, eps)
    claimed = []
    for number, (value, true) in enumerate(zip(tau, measured, strict=True)):
        claim = torch.as_tensor(value, dtype=X.dtype, device=X.device)
        if claim.shape not in ((), (len(X),)) or not bool((torch.isfinite(claim) & (claim > 0)).all()):
            raise InputError(
                f"tau[{number}] is {value!r}; it must be a number above zero, or a tensor of {len(X)} of them."
            )
        claim = claim.expand(len(X))
        worst = int((claim / true).argmax())
        if claim[worst] > true[worst] * (1.0 + 1e-6):
            raise AssumptionError(
                f"tau[{number}] is {float(claim[worst]):.6g} for sample {worst}, and its tokens have sqrt(var + eps) "
                f"down to {float(true[worst]):.6g}; a lower bound must not be above that."
            )
        claimed.append(torch.maximum(claim, least))
    return claimed[0], claimed[1]
