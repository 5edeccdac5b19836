"""Explicit layers that refute printed statements, and layers at which the mended bounds are attained.

Each is a pure function without randomness, so that whoever doubts a statement can compute with the numbers.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape.hessian.losses import MSE, OutputLoss


@dataclass(frozen=True)
class Example:
    """A softmax attention layer of one sample and one head, with its target, in float64.

    Attributes:
        X: (1, L, d) tokens.
        W_Q: (d, d_K).
        W_K: (d, d_K).
        W_V: (d, d_V).
        target: (1, L, d_V), Y*.
    """

    X: Float[Tensor, "1 L d"]
    W_Q: Float[Tensor, "d d_K"]
    W_K: Float[Tensor, "d d_K"]
    W_V: Float[Tensor, "d d_V"]
    target: Float[Tensor, "1 L d_V"]

    @property
    def layer(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """X, W_Q, W_K, W_V: what the functions of this package take first."""
        return self.X, self.W_Q, self.W_K, self.W_V

    @property
    def loss(self) -> MSE:
        """The mean squared error to the target."""
        return MSE(self.target)

    @property
    def attention(self) -> Float[Tensor, "1 L L"]:
        """A, the attention of the layer."""
        return _attention(self.X, self.W_Q, self.W_K)


def printed_theorem_1() -> Example:
    r"""Return a layer whose Hessian is larger than M of the printed Theorem 1: 0.761 against 0.5.

    All constants are 1 but R_max = 0: ||X|| = ||W|| = 1 and the target is the output, so M = 2/(L d_V) = 1/2. Two
    printed steps fail here: ||A|| = 1.10 is above 1, so that the block of W_V alone has norm 0.607, and a matrix may
    have a larger norm than its largest block (docs/theory, section 4, counterexample 1).

    >>> from stillscape.bounds.attention import self_attention
    >>> example = printed_theorem_1()
    >>> round(self_attention(*example.layer, loss=example.loss, kind="printed").item(), 6)
    0.5
    """
    X = torch.tensor([[[1.0, 1.0], [1.0, -1.0]]], dtype=torch.float64) / math.sqrt(2.0)
    return _with_error(X, _column(1.0, 0.0), _column(0.0, 1.0), torch.eye(2, dtype=torch.float64), torch.zeros_like(X))


def max_over_blocks() -> Example:
    r"""Return a layer whose Hessian has exactly three times the norm of its largest block: no more is possible.

    The printed proof takes the largest block for the norm of the whole. Two tokens x = (1, -1) and W_Q = W_K = 1 give
    M = (m, -m) and C_1 = C_2 = 1 - m^2 with m = tanh 1, so J_V = (m, -m) and J_Q = J_K = W_V (1 - m^2)(1, -1).
    W_V = sinh(2)/2 makes the three equal, and with no residual H = 2c m^2 times the 3 x 3 matrix of ones, c = 1.

    >>> round(2 * math.tanh(1.0) ** 2, 6)  # the norm of every one of the nine blocks; the whole has 3 times it
    1.160051
    """
    one, X = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    return _with_error(X, one, one, one * math.sinh(2.0) / 2.0, torch.zeros_like(X))


def frobenius_loss(eta: float) -> tuple[Example, OutputLoss]:
    r"""Return the layer of `printed_theorem_1` with a target at distance eta, and the loss ||F - Y||_F itself.

    The printed Theorem 1 calls the Frobenius norm its loss. With E = F - Y, G = E/||E||_F and B = (I - ee')/||E||_F,
    so the Hessian grows as 1/eta while the printed M stays near 1/2 (docs/theory, section 4, counterexample 3).

    Args:
        eta: ||F - Y||_F, above zero.

    Returns:
        the layer, and the loss by its G and B at the output of that layer.

    >>> example, loss = frobenius_loss(0.01)
    >>> [round(x, 6) for x in loss.expand(example.target).gradient.flatten().tolist()]
    [0.5, 0.5, 0.5, 0.5]
    """
    base = printed_theorem_1()
    direction = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    flat = direction.flatten(-2)
    hessian = (torch.eye(4, dtype=torch.float64) - flat[..., None] * flat[..., None, :]) / eta
    return _with_error(*base.layer, eta * direction), OutputLoss(direction, hessian)


def attention_norm_above_one(tokens: int = 4, score: float = 20.0) -> Example:
    r"""Return a layer with ||A|| and ||AX|| near sqrt(L), while ||X|| = 1: every token attends to the first.

    The printed proofs take ||A|| <= 1 and ||AX|| <= ||X||. Tokens are unit vectors, each query is 1 and the keys are
    (score, 0, ..., 0), so each row of A is near (1, 0, ..., 0) (docs/theory, section 1, statement 2, and Lemma 4).

    >>> float(torch.linalg.matrix_norm(attention_norm_above_one().attention, ord=2).round(decimals=6))
    2.0
    """
    X = torch.eye(tokens, dtype=torch.float64)[None]
    keys = torch.zeros(tokens, 1, dtype=torch.float64)
    keys[0] = score
    return _with_error(X, torch.ones_like(keys), keys, X[0], torch.zeros_like(X))


def softmax_derivative_printed(A: Float[Tensor, "L L"]) -> Float[Tensor, "LL LL"]:
    r"""Return dA/dT as printed, A_ij (delta_ik delta_jl - A_kl): it lets every row act on every other.

    Rows are (i, j), columns (k, l). At A = 0.96 I + 0.01 11' with four tokens its norm is 2.795, above the bound 1
    that the printed proof takes for it (docs/theory, section 1, statement 1).

    >>> A = 0.96 * torch.eye(4) + 0.01
    >>> round(float(torch.linalg.matrix_norm(softmax_derivative_printed(A), ord=2)), 3)
    2.795
    """
    flat = A.flatten()
    return torch.diag(flat) - flat[:, None] * flat


def softmax_derivative(A: Float[Tensor, "L L"]) -> Float[Tensor, "LL LL"]:
    r"""Return dA/dT of the softmax of each row, delta_ik A_ij (delta_jl - A_il); rows (i, j), columns (k, l).

    >>> A = 0.96 * torch.eye(4) + 0.01
    >>> round(float(torch.linalg.matrix_norm(softmax_derivative(A), ord=2)), 3)
    0.039
    """
    return torch.block_diag(*(torch.diag(a) - a[:, None] * a for a in A))


def tight_a_priori(size: float = 1e-3) -> Example:
    r"""Return a layer at which Theorem 1' is attained as `size` goes to 0: ratio above 1 - 2 size^2.

    Weights of norm `size`, a residual of norm size^(-3) along X: what is bilinear in the weights then outgrows the
    rest, attention is near (1/2, 1/2), and every factor 1/2 of Lemma 1 counts in full.
    """
    X = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64) / math.sqrt(2.0)
    weight = torch.full((1, 1), size, dtype=torch.float64)
    return _with_error(X, weight, weight, weight, size**-3.0 * X)


def tight_second_derivative(size: float = 1e-3) -> Example:
    r"""Return a layer at which Theorem 1'' is attained as `size` goes to 0, by the constant sqrt(6)/9 of Lemma 2.

    Attention is p = (1 - 1/sqrt 3)/2 on the one token and 1 - p on the other, where p (1 - p)(1 - 2p) is largest.
    W_K is of order 1/size and W_Q of order size, so the block of W_Q outgrows the others; the residual has norm
    size^(-3), so the functional Hessian outgrows the outer product.
    """
    X = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64) / math.sqrt(2.0)
    p = 0.5 * (1.0 - 1.0 / math.sqrt(3.0))
    score = math.log((1.0 - p) / p)  # t_11 - t_12 = W_Q W_K, for x = (1, -1)/sqrt 2
    one = torch.ones(1, 1, dtype=torch.float64)
    return _with_error(X, score * size * one, one / size, one, size**-3.0 * X)


def _with_error(X: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, error: Tensor) -> Example:
    """Return the layer whose output is off its target by `error`."""
    return Example(X, W_Q, W_K, W_V, _attention(X, W_Q, W_K) @ X @ W_V - error)


def _attention(X: Tensor, W_Q: Tensor, W_K: Tensor) -> Tensor:
    return ((X @ W_Q) @ (X @ W_K).mT / math.sqrt(W_Q.shape[-1])).softmax(-1)


def _column(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)[:, None]
