"""Losses on the output of a layer: value, gradient G and Hessian B at F, in the form that costs least."""

from copy import copy
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillscape._checks import one_of
from stillscape._errors import InputError
from stillscape.hessian import _arguments

POOLS = ("mean", "cls", "token")
_Given = TypeVar("_Given")


@dataclass(frozen=True)
class Expansion:
    r"""A loss to second order at an output F of n samples, L tokens and m features.

    The output Hessian B is the sum of whichever of three forms are there:

        B = blockdiag_i(B_i) + sum_k f_k f_k^T + dense

    Attributes:
        value: (n,) loss of each sample, nats or squared units; None where only derivatives were given.
        gradient: (n, L, m), G = dl/dF.
        diagonal: (n, L, m, m), blocks B_i of a loss in which tokens don't meet.
        factor: (n, K, L, m), directions f_k.
        dense: (n, L m, L m), row-major in (token, feature).
    """

    value: Float[Tensor, " n"] | None
    gradient: Float[Tensor, "n L m"]
    diagonal: Float[Tensor, "n L m m"] | None = None
    factor: Float[Tensor, "n K L m"] | None = None
    dense: Float[Tensor, "n Lm Lm"] | None = None

    def apply(self, tangent: Float[Tensor, "*v n L m"]) -> Float[Tensor, "*v n L m"]:
        """Return B applied to a change of the output; leading axes are several changes at once."""
        result = torch.zeros_like(tangent)
        if self.diagonal is not None:
            result = result + (self.diagonal @ tangent[..., None]).squeeze(-1)
        if self.factor is not None:
            weights = torch.einsum("nklm,...nlm->...nk", self.factor, tangent)
            result = result + torch.einsum("nklm,...nk->...nlm", self.factor, weights)
        if self.dense is not None:
            result = result + (self.dense @ tangent.flatten(-2)[..., None]).reshape(tangent.shape)
        return result

    def matrix(self) -> Float[Tensor, "n Lm Lm"]:
        """Return B whole, row-major in (token, feature); memory n (L m)^2."""
        n, tokens, features = self.gradient.shape
        unit = torch.eye(tokens * features, dtype=self.gradient.dtype, device=self.gradient.device)
        columns = self.apply(unit.reshape(-1, 1, tokens, features).expand(-1, n, -1, -1))
        return columns.flatten(-2).permute(1, 2, 0)

    def scaled(self, weight: float) -> "Expansion":
        """Return the derivatives of `weight` times the loss."""
        diagonal = self.diagonal
        if diagonal is not None:  # one matrix for all tokens stays one
            diagonal = (weight * self.common_or_all(diagonal)).expand_as(diagonal)
        return Expansion(
            self.value,
            weight * self.gradient,
            diagonal,
            None if self.factor is None else weight**0.5 * self.factor,
            None if self.dense is None else weight * self.dense,
        )

    @staticmethod
    def common_or_all(diagonal: Float[Tensor, "n L m m"]) -> Float[Tensor, "#n #L m m"]:
        """Return B_i once if it is one matrix spread over all tokens without memory, as that of a squared error is."""
        return diagonal[:1, :1] if diagonal.stride()[:2] == (0, 0) else diagonal

    def spectral_norm(self) -> Float[Tensor, " n"]:
        """Return ||B|| of each sample, from the smallest matrix that has it."""
        if self.factor is None and self.dense is None and self.diagonal is not None:
            return torch.linalg.matrix_norm(self.diagonal, ord=2).amax(-1)
        if self.diagonal is None and self.dense is None and self.factor is not None:
            return torch.linalg.matrix_norm(self.factor.flatten(-2), ord=2) ** 2
        return torch.linalg.matrix_norm(self.matrix(), ord=2)


class Loss(Protocol):
    """What every loss offers: its expansion at an output, and the same loss on part of the samples."""

    def expand(self, output: Float[Tensor, "n L m"]) -> Expansion:
        """Return value, gradient and Hessian at `output`."""

    def take(self, rows: slice) -> "Loss":
        """Return the loss of the samples in `rows`."""


class MSE:
    r"""Mean squared error of each sample, :math:`l = \frac1{Lm}\lVert F - Y\rVert_F^2`, so G = c(F - Y) and B = cI.

    c = 2/(Lm) (theory, section 0; the loss of the drafts' Section 3.4).

    Args:
        target: Y, (n, L, m).

    Raises:
        InputError: `target` is no finite float tensor of three axes; at `expand`, its shape is not the output's.

    Cost: O(n L m) for the gradient; B is held as a number that is spread without memory.

    >>> loss = MSE(torch.zeros(1, 1, 2))
    >>> at = loss.expand(torch.tensor([[[3.0, 4.0]]]))
    >>> at.value.tolist(), at.gradient.tolist(), at.spectral_norm().tolist()
    ([12.5], [[[3.0, 4.0]]], [1.0])
    """

    def __init__(self, target: Float[Tensor, "n L m"]) -> None:
        self.target = _arguments.real_tensor("target", target, (None, None, None))

    def expand(self, output: Float[Tensor, "n L m"]) -> Expansion:
        """Return value, gradient and Hessian at `output`."""
        target = _arguments.fitting("target", self.target, tuple(output.shape), output)
        tokens, features = output.shape[1:]
        scale = 2.0 / (tokens * features)
        error = output - target
        unit = torch.eye(features, dtype=output.dtype, device=output.device) * scale
        return Expansion(
            value=error.square().mean((1, 2)), gradient=scale * error, diagonal=unit.expand(*output.shape, features)
        )

    def take(self, rows: slice) -> "MSE":
        """Return the loss of the samples in `rows`."""
        return _with(self, target=self.target[rows])


class CrossEntropy:
    r"""Cross-entropy of a linear head on the output, in nats, :math:`-\log p_y` with p = softmax(o).

    pool "mean": o = mean_i F_i W_h + b_h; "cls": o = F_1 W_h + b_h; "token": the mean over tokens i of the
    cross-entropy of o_i = F_i W_h + b_h. With pooling weights s and Sigma_p = diag(p) - pp^T

        G = s (W_h (p - y))^T,   B = s s^T (x) W_h Sigma_p W_h^T    of rank C - 1, held as its factor

    and for "token" the same for each token, divided by L (theory, section 0).

    Args:
        labels: (n,), for "token" (n, L); whole numbers in 0..C-1.
        W_h: (m, C) head.
        b_h: (C,) bias of the head; None: zero.
        pool: "mean", "cls" or "token".

    Raises:
        InputError: a shape, dtype or device that does not fit, a label out of range, an unknown `pool`.

    Cost: O(n C (L m + C)); for "token" O(n L m^2 C).

    >>> loss = CrossEntropy(torch.tensor([0]), torch.eye(2), pool="mean")
    >>> at = loss.expand(torch.zeros(1, 1, 2))
    >>> at.gradient.tolist(), [round(x, 6) for x in at.matrix().flatten().tolist()]
    ([[[-0.5, 0.5]]], [0.25, -0.25, -0.25, 0.25])
    """

    def __init__(
        self,
        labels: Int[Tensor, "..."],
        W_h: Float[Tensor, "m C"],
        b_h: Float[Tensor, " C"] | None = None,
        pool: str = "mean",
    ) -> None:
        self.pool = one_of("pool", pool, POOLS)
        self.W_h = _arguments.real_tensor("W_h", W_h, (None, None))
        classes = self.W_h.shape[1]
        self.b_h = self.W_h.new_zeros(classes) if b_h is None else b_h
        self.b_h = _arguments.real_tensor("b_h", self.b_h, (classes,), self.W_h)
        axes = 2 if pool == "token" else 1
        if isinstance(labels, Tensor) and labels.ndim != axes:
            wanted = "(n, L)" if pool == "token" else "(n,)"
            raise InputError(f'labels have shape {tuple(labels.shape)}; pool="{pool}" takes {wanted}.')
        self.labels = _arguments.class_labels(labels, tuple(getattr(labels, "shape", ())), classes)
        if self.labels.device != self.W_h.device:
            raise InputError(f"labels are on {self.labels.device} and W_h on {self.W_h.device}; move one with .to().")

    def expand(self, output: Float[Tensor, "n L m"]) -> Expansion:
        """Return value, gradient and Hessian at `output`."""
        n, tokens, features = output.shape
        head = _arguments.fitting("W_h", self.W_h, (features, None), output)
        _arguments.class_labels(self.labels, (n, tokens) if self.pool == "token" else (n,), head.shape[1])
        if self.pool == "token":
            return self._expand_tokens(output)
        weights = self.pooling(tokens)
        logits = torch.einsum("l,nlm->nm", weights, output) @ head + self.b_h
        pull = self._residual(logits) @ head.mT
        factor = torch.einsum("l,mc,nck->nklm", weights, head, softmax_root(logits.softmax(-1)))
        gradient = weights[:, None] * pull[:, None, :]
        return Expansion(value=self._nats(logits), gradient=gradient, factor=factor)

    def _expand_tokens(self, output: Tensor) -> Expansion:
        logits, tokens = output @ self.W_h + self.b_h, output.shape[1]
        half = self.W_h @ softmax_root(logits.softmax(-1))
        return Expansion(
            value=self._nats(logits).mean(-1),
            gradient=self._residual(logits) @ self.W_h.mT / tokens,
            diagonal=half @ half.mT / tokens,
        )

    def pooling(self, tokens: int) -> Float[Tensor, " L"]:
        """Return the weights s by which tokens are pooled into one vector ("token": each by itself, weight 1/L)."""
        weights = self.W_h.new_full((tokens,), 1.0 / tokens)
        if self.pool == "cls":
            weights = torch.zeros_like(weights)
            weights[0] = 1.0
        return weights

    def on_logits(self) -> "CrossEntropy":
        """Return the same loss as a function of the logits of each token: the head is then a layer of its own."""
        unit = torch.eye(self.W_h.shape[1], dtype=self.W_h.dtype, device=self.W_h.device)
        return CrossEntropy(self.labels, unit, None, self.pool)

    def take(self, rows: slice) -> "CrossEntropy":
        """Return the loss of the samples in `rows`."""
        return _with(self, labels=self.labels[rows])

    def _residual(self, logits: Tensor) -> Tensor:
        # At the label, p_y - 1 is minus the sum of the others: subtracting would lose all digits of a confident model.
        label = torch.nn.functional.one_hot(self.labels, logits.shape[-1]).to(logits.dtype)
        others = logits.softmax(-1) * (1.0 - label)
        return others - label * others.sum(-1, keepdim=True)

    def _nats(self, logits: Tensor) -> Tensor:
        # log(1 + rivals): a small loss, too, keeps its digits.
        label = torch.nn.functional.one_hot(self.labels, logits.shape[-1]).bool()
        rivals = logits.masked_fill(label, -torch.inf).logsumexp(-1) - logits[label].reshape(self.labels.shape)
        return torch.logaddexp(rivals, torch.zeros_like(rivals))


class OutputLoss:
    r"""Any twice-differentiable loss, given by its gradient G and Hessian B at the output.

    Args:
        gradient: G, (n, L, m).
        hessian: B, (n, L m, L m), symmetric, row-major in (token, feature).

    Raises:
        InputError: shapes that don't fit each other or the output, or a `hessian` that is not symmetric.

    >>> OutputLoss(torch.ones(1, 1, 2), torch.eye(2)[None]).expand(torch.zeros(1, 1, 2)).spectral_norm().tolist()
    [1.0]
    """

    def __init__(self, gradient: Float[Tensor, "n L m"], hessian: Float[Tensor, "n Lm Lm"]) -> None:
        self.gradient = _arguments.real_tensor("gradient", gradient, (None, None, None))
        n, tokens, features = self.gradient.shape
        size = tokens * features
        self.hessian = _arguments.real_tensor("hessian", hessian, (n, size, size), self.gradient)
        gap = (self.hessian - self.hessian.mT).abs().max()
        if gap > 1e3 * torch.finfo(self.hessian.dtype).eps * self.hessian.abs().max():
            raise InputError(f"hessian differs from its transpose by {float(gap):.3g}; it must be symmetric.")

    def expand(self, output: Float[Tensor, "n L m"]) -> Expansion:
        """Return gradient and Hessian as given; `output` only has to fit."""
        gradient = _arguments.fitting("gradient", self.gradient, tuple(output.shape), output)
        return Expansion(value=None, gradient=gradient, dense=self.hessian)

    def take(self, rows: slice) -> "OutputLoss":
        """Return the loss of the samples in `rows`."""
        return _with(self, gradient=self.gradient[rows], hessian=self.hessian[rows])


def _with(loss: _Given, **data: Tensor) -> _Given:
    """Return the same loss with other data, checked before."""
    other = copy(loss)
    for name, value in data.items():
        setattr(other, name, value)
    return other


def softmax_root(p: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C K"]:
    r"""Return R with R R^T = diag(p) - p p^T and K = max(C - 1, 1) columns.

    diag(sqrt p)(I - u u^T)diag(sqrt p) with the unit vector u = sqrt p; the projector is H H^T of all columns but t of
    the Householder reflection that sends u to -e_t. With t the likeliest class nothing cancels, however sure the model.

    >>> R = softmax_root(torch.tensor([0.5, 0.5]))
    >>> (R @ R.mT).round(decimals=6).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    root, classes = p.sqrt(), p.shape[-1]
    if classes == 1:
        return torch.zeros_like(root)[..., None]
    top = p.argmax(-1, keepdim=True)
    mirror = root.scatter_add(-1, top, torch.ones_like(root[..., :1]))
    unit = torch.eye(classes, dtype=p.dtype, device=p.device)
    reflection = unit - mirror[..., :, None] * mirror[..., None, :] * (2.0 / mirror.square().sum(-1)[..., None, None])
    others = torch.arange(classes - 1, device=p.device).expand(*top.shape[:-1], -1)
    others = others + (others >= top)
    return root[..., :, None] * reflection.gather(-1, others[..., None, :].expand(*p.shape, -1))
