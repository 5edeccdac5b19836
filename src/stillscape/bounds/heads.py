"""How large the Hessian of one sample can be in the weights of attention with several heads and a projection."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape import _checks
from stillscape._errors import InputError
from stillscape.bounds import _attention_losses
from stillscape.bounds import _attention_norms as norms
from stillscape.bounds._attention_losses import LossNorms
from stillscape.bounds._attention_norms import Layer, spectral
from stillscape.hessian import _arguments
from stillscape.hessian.losses import MSE, CrossEntropy, Expansion, Loss

KINDS = ("a_priori", "data", "token")
_CHUNK = 2**24  # numbers held at once for all tokens of a slice of samples

# Derivation. Head h gives F_h = M_h V_h with M_h = A_h X; O = [F_1, ..., F_H], Z = O W_O = sum_h F_h W_O^h, G = dl/dZ.
# To second order l changes by <G, d2Z>/2 + <dZ, B dZ>/2, with dZ = sum_h dF_h W_O^h + O dW_O, so:
# (1) d2Z = sum_h d2F_h W_O^h + 2 sum_h dF_h dW_O^h. The first sum is the functional part of head h alone with the
#     adjoint Lambda_h = G W_O^h' at its output: single-head theorems hold, and no two heads meet in it.
# (2) <G, dF_h dW_O^h> couples head h with its own rows of W_O. It is at most ||G|| |dF_h| |dW_O^h|; for the value
#     weights, where dF_h = M_h dV_h, at most ||M_h'G||; for a pooled loss, where G = sg', at most
#     |g| |sum_i s_i dF_h,i| |dW_O^h|.
# (3) dZ: W_Q, W_K of head h act as in a layer with values V_h W_O^h; V_h through M_h and W_O^h; W_O has the Jacobian
#     O (x) I, its rows of head h F_h (x) I. A block of the outer part is at most beta times two such norms. Where
#     B = blockdiag(B_i) it is also at most |dF_h| |dF_g| max_i ||W_O^h B_i W_O^g'||: without W_O, heads under a squared
#     error don't meet at all.
# (4) ||H|| is at most the norm of the matrix of block norms, for W_O as one parameter or cut into the rows of its
#     heads: the first is sharp on O (x) I, the second on (2). Both hold; the smaller one is returned.


def multi_head_attention(
    X: Float[Tensor, "n L d"],
    W_Q: Float[Tensor, "d hdK"],
    W_K: Float[Tensor, "d hdK"],
    W_V: Float[Tensor, "d hdV"],
    *,
    loss: Loss,
    heads: int,
    W_O: Float[Tensor, "hdV d_out"] | None = None,
    kind: str = "token",
) -> Float[Tensor, " n"]:
    r"""Return a bound on the norm of each sample's Hessian in (W_Q, W_K, W_V[, W_O]) of a multi-head softmax layer.

    Z = [A_1 X V_1, ..., A_h X V_h] W_O, without biases:

        ||H|| <= ||N||,   N_(ha)(gb) = beta j_ha j_gb + [h = g] f_h,ab,   N_(ha)O = beta j_ha ||O|| + f_h,aO,
        N_OO = beta ||O||^2

    with f_h of the single-head theorems for the adjoint G W_O^h', and f_h,aO what W_O adds by standing after the
    heads (docs/theory, sections 4 and 8; derived above). One head without W_O gives `self_attention`.

    Args:
        X: tokens of each sample.
        W_Q: query weights, heads beside each other.
        W_K: key weights.
        W_V: value weights.
        loss: MSE, CrossEntropy or OutputLoss of `stillscape.hessian`, on Z.
        heads: number of heads.
        W_O: output projection, a parameter too; None: the heads' outputs stand beside each other.
        kind: "a_priori", "data" or "token", as in `self_attention`.

    Returns:
        the bound of each sample, in the dtype of `X`, rounded upward.

    Raises:
        InputError: an argument does not fit the others, `heads` does not divide the columns, or `kind` is unknown.

    Cost: that of `self_attention` for each head.

    >>> from stillscape.hessian.losses import MSE
    >>> one, X = torch.ones(1, 1), 2 * torch.ones(1, 1, 1)  # one token attends to itself: Z = x v o
    >>> bound = multi_head_attention(X, one, one, one, loss=MSE(X), heads=1, W_O=one)
    >>> round(bound.item(), 3)  # at v = o = 1 and Z = target, H = 2 [[4, 4], [4, 4]] in (v, o)
    16.0
    """
    _checks.one_of("kind", kind, KINDS)
    _checks.at_least("heads", heads, 1)
    X = _arguments.real_tensor("X", X, (None, None, None))
    W_Q = _arguments.real_tensor("W_Q", W_Q, (X.shape[-1], None), X)
    W_K = _arguments.real_tensor("W_K", W_K, tuple(W_Q.shape), X)
    W_V = _arguments.real_tensor("W_V", W_V, (X.shape[-1], None), X)
    for name, weight in (("W_Q", W_Q), ("W_V", W_V)):
        if weight.shape[1] % heads:
            raise InputError(f"heads is {heads}, which does not divide the {weight.shape[1]} columns of {name}.")
    if W_O is not None:
        W_O = _arguments.real_tensor("W_O", W_O, (W_V.shape[1], None), X).double()
    width = W_V.shape[1] if W_O is None else W_O.shape[1]
    exact = _attention_losses.in_float64(loss, X.new_empty(*X.shape[:2], width))
    weights, found = (W_Q.double(), W_K.double(), W_V.double()), []
    tokens, features = X.shape[1:]
    each = {"a_priori": tokens, "data": 4 * tokens**2, "token": tokens * features * (tokens + 3 * features)}[kind]
    step = max(1, _CHUNK // each)
    for start in range(0, len(X), step):
        rows = slice(start, start + step)
        found.append(bound(X[rows].double(), weights, W_O, exact.take(rows), heads, kind, X.dtype))
    return norms.rounded_up(torch.cat(found), X.dtype)


def bound(
    X: Float[Tensor, "n L d"],
    weights: tuple[Tensor, Tensor, Tensor],
    W_O: Float[Tensor, "*#n hdV d_out"] | None,
    loss: Loss,
    heads: int,
    kind: str,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, " n"]:
    """Return the bound in float64; weights may have a leading axis of samples."""
    Q, K, V = (weight.chunk(heads, -1) for weight in weights)
    layers = [Layer(X, *each) for each in zip(Q, K, V, strict=True)]
    width = weights[2].shape[-1]
    mixing = torch.eye(width, dtype=X.dtype, device=X.device) if W_O is None else W_O
    attended = [layer.attend() for layer in layers]
    together = torch.cat([F for _, _, F in attended], -1)
    at = _attention_losses.expand(loss, together @ mixing, dtype)
    each = zip(layers, attended, mixing.chunk(heads, -2), strict=True)
    parts = [_head(layer, *a[:2], W, loss, at, kind) for layer, a, W in each]
    if kind == "a_priori":
        rows = torch.stack([part.rows for part in parts if part.rows is not None], -1)
        own_rows, whole = rows, torch.linalg.vector_norm(rows, dim=-1)
        beta = _pooled(loss, X, _output(loss, at, X).hessian)
    else:
        own_rows, whole, beta = _measured_rows(loss, at, together, heads, kind)
    f, f_O, j_F, j_Z = (torch.stack([getattr(p, k) for p in parts], 1) for k in ("f", "f_O", "to_head", "to_output"))
    n = len(X)
    j = j_Z.flatten(1)
    outer = beta[:, None, None] * norms.outer(j)
    coupling = _coupling(loss, at, mixing, heads, kind)
    if coupling is not None:
        through = coupling.repeat_interleave(3, -2).repeat_interleave(3, -1) * norms.outer(j_F.flatten(1))
        outer = torch.minimum(outer, through)
    N = outer + torch.diag_embed(f.movedim(1, -1)).permute(0, 3, 1, 4, 2).reshape(n, 3 * heads, 3 * heads)
    if W_O is None:
        return norms.block_matrix_norm(N)
    side = (beta * whole)[:, None] * j + f_O.flatten(1)
    as_one = _bordered(N, side[..., None], (beta * whole**2)[:, None, None])
    side = beta[:, None, None] * j[..., :, None] * own_rows[..., None, :]
    side = side + torch.diag_embed(f_O.movedim(1, -1)).permute(0, 2, 1, 3).reshape(n, 3 * heads, heads)
    apart = _bordered(N, side, beta[:, None, None] * norms.outer(own_rows))
    return torch.minimum(norms.block_matrix_norm(as_one), norms.block_matrix_norm(apart))


@dataclass(frozen=True)
class _Head:
    """Norms of one head: Jacobians of F_h and of Z in Q, K, V; blocks f; blocks with W_O; its part in ||O||."""

    to_head: Float[Tensor, "n 3"]
    to_output: Float[Tensor, "n 3"]
    f: Float[Tensor, "n 3 3"]
    f_O: Float[Tensor, "n 3"]
    rows: Float[Tensor, " n"] | None = None


def _head(layer: Layer, A: Tensor, M: Tensor, W: Tensor, loss: Loss, at: Expansion, kind: str) -> _Head:
    s = loss.pooling(layer.X.shape[-2]) if _attention_losses.is_pooled(loss) else None  # type: ignore[attr-defined]
    if kind == "a_priori":
        return _a_priori(layer, W, loss, at, s)
    G, beyond = at.gradient, Layer(layer.X, layer.W_Q, layer.W_K, layer.W_V @ W)
    adjoint, w = G @ W.mT, spectral(W)
    if kind == "data":
        pieces, through = norms.data(layer, A, M, adjoint), norms.data(beyond, A, M, G).jacobian
        pooled = None if s is None else norms.pooled_data(layer, A, M, s)
        to_output = through if s is None else norms.pooled_data(beyond, A, M, s)
    else:
        moments = norms.Moments.at(layer, A, M, adjoint)
        pieces, through = norms.token(layer, M, adjoint, moments), norms.token_jacobians(beyond, M, moments.C)
        pooled = None if s is None else norms.token_jacobians(layer, M, moments.C, s)
        to_output = through
    if kind == "token" and _is_low_rank(at):
        to_output = norms.factor_norms(layer, M, moments.C, at.factor @ W.mT[..., None, :, :])  # type: ignore[operator]
    else:
        to_output = torch.cat([to_output[:, :2], (w * to_output[:, 2])[:, None]], -1)
    with_O = spectral(G)[:, None] * pieces.jacobian
    if pooled is not None and s is not None:
        with_O = torch.minimum(with_O, (spectral(G) / torch.linalg.vector_norm(s))[:, None] * pooled)
    with_O = torch.cat([with_O[:, :2], spectral(M.mT @ G)[:, None]], -1)
    return _Head(pieces.jacobian, to_output, pieces.functional, with_O)


def _a_priori(layer: Layer, W: Tensor, loss: Loss, at: Expansion, s: Tensor | None) -> _Head:
    """Return the norms by Theorem 1', with one omega for the three weights of a head as the theorem has it."""
    omega, w = torch.stack(torch.broadcast_tensors(*layer.weight_norms)).amax(0), spectral(W)
    of_loss = _output(loss, at, layer.X)
    pieces = norms.a_priori(layer, (omega, omega, omega), w * of_loss.gradient, w * of_loss.gradient_row)
    jacobian, pull = pieces.jacobian, of_loss.gradient
    if s is not None:
        jacobian, pull = norms.pooled_a_priori(layer, (omega, omega, omega), s), pull / torch.linalg.vector_norm(s)
    each = w.expand(len(layer.X))[:, None]
    return _Head(pieces.jacobian, each * jacobian, pieces.functional, pull[:, None] * jacobian, omega * jacobian[:, 2])


def _output(loss: Loss, at: Expansion, X: Tensor) -> LossNorms:
    """Return what is known of the loss beforehand: all of a cross-entropy; of others what is measured."""
    return (
        _attention_losses.cross_entropy(loss, X) if isinstance(loss, CrossEntropy) else _attention_losses.measured(at)
    )


def _pooled(loss: Loss, X: Tensor, hessian: Tensor) -> Tensor:
    """Return ||B||, of a pooled loss ||B||/|s|^2, which belongs to the Jacobians of the pooled output."""
    if not _attention_losses.is_pooled(loss):
        return hessian
    return hessian / loss.pooling(X.shape[-2]).square().sum()  # type: ignore[attr-defined]


def _measured_rows(
    loss: Loss, at: Expansion, F: Tensor, heads: int, kind: str
) -> tuple[Float[Tensor, "n h"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the norms of the Jacobian in W_O, by head and whole, and the beta that belongs to all Jacobians."""
    if kind == "token" and _is_low_rank(at):
        pulled = torch.einsum("nkif,nie->nkef", at.factor, F)
        each = [spectral(part.flatten(-2)) for part in pulled.chunk(heads, -2)]
        return torch.stack(each, -1), spectral(pulled.flatten(-2)), torch.ones_like(F[:, 0, 0])
    beta = _pooled(loss, F, at.spectral_norm())
    if _attention_losses.is_pooled(loss):
        F = (loss.pooling(F.shape[-2]) @ F)[:, None]  # type: ignore[attr-defined]
    return torch.stack([spectral(part) for part in F.chunk(heads, -1)], -1), spectral(F), beta


def _coupling(loss: Loss, at: Expansion, mixing: Tensor, heads: int, kind: str) -> Float[Tensor, "n h h"] | None:
    """Return max_i ||W_O^h B_i W_O^g'|| where tokens don't meet in the loss, else None."""
    known = kind != "a_priori" or isinstance(loss, MSE)  # B = cI is known beforehand, other blocks are measured
    if at.diagonal is None or at.factor is not None or at.dense is not None or not known:
        return None
    blocks = at.diagonal[:, :1] if isinstance(loss, MSE) else at.diagonal  # the same cI for every token
    seen = mixing[..., None, :, :] @ blocks @ mixing.mT[..., None, :, :]
    rows = [part.chunk(heads, -1) for part in seen.chunk(heads, -2)]
    return torch.stack([torch.stack([spectral(b).amax(-1) for b in row], -1) for row in rows], -2)


def _bordered(N: Tensor, side: Tensor, corner: Tensor) -> Tensor:
    return torch.cat([torch.cat([N, side], -1), torch.cat([side.mT, corner], -1)], -2)


def _is_low_rank(at: Expansion) -> bool:
    return at.factor is not None and at.diagonal is None and at.dense is None
