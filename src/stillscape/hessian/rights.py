"""Right matrices, one for each token: dense, diagonal, the same for all tokens, or the identity; and their products."""

import torch
from jaxtyping import Float
from torch import Tensor

Right = Tensor | None  # (n or 1, L or 1, r, D); (n or 1, L or 1, r) if diagonal; None: the identity


def identity(like: Float[Tensor, "... r"]) -> Float[Tensor, "1 1 r r"]:
    """Return the identity that fits the last axis of `like`, once for all tokens."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[None, None]


def some(right: Right, tokens: slice) -> Right:
    """Return a right matrix of some tokens only."""
    return right if right is None or right.shape[1] == 1 else right[:, tokens]


def written_out(right: Right, size: int, like: Tensor) -> Float[Tensor, "#n #L r D"]:
    """Return a right matrix with all its entries, `size` columns of them."""
    if right is None:
        return torch.eye(size, dtype=like.dtype, device=like.device)[None, None]
    return torch.diag_embed(right) if right.ndim == 3 else right


def times(right: Right, N: Tensor) -> Tensor:
    """Return R N, diagonal if both are."""
    if right is None:
        return N
    if right.ndim == 3:
        return right * N if N.ndim == 3 else right[..., None] * N
    if N.ndim == 3:
        return right * N[..., None, :]
    # The same matrix for all tokens: one large product instead of many small ones.
    if N.shape[:2] == (1, 1):
        return right @ N[0, 0]
    return (N.mT @ right[0, 0].mT).mT if right.shape[:2] == (1, 1) else right @ N


def times_transposed(half: Tensor, right: Right) -> Tensor:
    """Return half R', diagonal if both are."""
    if right is None:
        return half
    if right.ndim == 3:
        return half * right if half.ndim == 3 else half * right[..., None, :]
    if half.ndim == 3:
        return half[..., None] * right.mT
    return half @ (right[0, 0].mT if right.shape[:2] == (1, 1) else right.mT)


def after(right: Right, found: Right) -> Right:
    """Return the product of two right matrices, the first that of the way before."""
    return right if found is None else times(right, found)


def transposed(core: Tensor) -> Tensor:
    """Return the transpose for each token."""
    return core if core.ndim == 3 else core.mT


def total_of(terms: list[Tensor]) -> Tensor | None:
    """Return the sum, in the memory of one of the terms; diagonal only if all are."""
    # Full matrices first: a diagonal one is then added in place, and never written out.
    ordered = sorted(terms, key=lambda term: (term.ndim == 3, term.shape[:2] == (1, 1)))
    if not ordered:
        return None
    total = ordered[0]
    for term in ordered[1:]:
        if total.shape[:2] == (1, 1) != term.shape[:2]:
            total = total.expand(*term.shape[:2], *total.shape[2:]).clone()
        target = total if term.ndim == total.ndim else total.diagonal(dim1=-2, dim2=-1)
        target.add_(term)
    return total
