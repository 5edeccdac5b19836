"""Products of per-sample Hessians with vectors, for any module and loss, without forming a matrix."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from stillscape._checks import one_of
from stillscape._errors import InputError

LossFn = Callable[[Tensor, Tensor], Tensor]

MEMORY_BYTES = 512 * 2**20  # what the vectors of one chunk may take; activations come on top


class PerSampleHessian:
    r"""Return products with the Hessians :math:`H_i = \nabla^2 \ell_i(w)` of single samples, or with their mean.

    With :math:`z_i` the model's output, :math:`\ell_i = \ell(z_i)`, the Hessian splits into

    .. math:: H_i = J_i^\top \nabla^2\ell(z_i) J_i + \sum_c \partial_c \ell(z_i) \nabla^2 z_{ic}

    the outer-product part (Gauss-Newton) and the functional part (Schraudolph 2002, eq. 5; Martens 2020, sec. 6).
    Products are taken forward over an inner reverse pass, ``jvp(grad)``, which is right through ``nn.LayerNorm``.

    Args:
        model: any module whose parameters of interest have ``requires_grad``; put it in ``eval()`` first.
        loss_fn: ``loss_fn(model(x[None]), y[None])`` must be the scalar loss of one sample.
        inputs: one entry for each sample along the first axis.
        targets: likewise.
        params: ``"trainable"``, or names of parameters.
        part: ``"full"``, ``"outer"`` or ``"functional"``.

    Raises:
        InputError: if inputs and targets differ in length, a name is unknown, or nothing is trainable.

    Cost: one product of one sample takes about four to five gradients of that sample; memory grows with the chunk.

    Example:
        Least squares with one weight: l = (w x - y)^2, so H = 2 x^2.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> hv = PerSampleHessian(model, lambda z, y: ((z - y) ** 2).sum(), torch.tensor([[3.0]]), torch.zeros(1, 1))
        >>> hv.matvec(0, torch.ones(1)).item()
        18.0
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        inputs: Tensor,
        targets: Tensor,
        params: str | Sequence[str] = "trainable",
        part: str = "full",
    ) -> None:
        one_of("part", part, ("full", "outer", "functional"))
        if len(inputs) != len(targets):
            raise InputError(f"inputs hold {len(inputs)} samples and targets {len(targets)}; they must be as many.")
        self.model, self.loss_fn, self.inputs, self.targets, self.part = model, loss_fn, inputs, targets, part
        self.params = _chosen(model, params)
        self.num_parameters = sum(p.numel() for p in self.params.values())
        self.num_samples = len(inputs)
        self.num_sample_products = 0
        first = next(iter(self.params.values()))
        self.dtype, self.device = first.dtype, first.device

    def matvec(self, i: int, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Return H_i v for sample `i`."""
        return self.products([i], v[None])[0]

    def mean_matvec(self, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Return the mean over all samples of H_i v."""
        total = torch.zeros_like(v)
        for rows in self._chunks(range(self.num_samples)):
            total += self.products(rows, v.expand(len(rows), -1)).sum(0)
        return total / self.num_samples

    def products(self, rows: Sequence[int], vectors: Float[Tensor, "rows P"]) -> Float[Tensor, "rows P"]:
        """Return H_i v_i for each of `rows` with its own vector, all at once."""
        self.num_sample_products += len(rows)
        index = torch.as_tensor(list(rows), device=self.inputs.device)
        return vmap(self._product, randomness="error")(self.inputs[index], self.targets[index], vectors)

    def gradients(self, rows: Sequence[int]) -> Float[Tensor, "rows P"]:
        """Return the gradient of the loss of each of `rows`."""
        index = torch.as_tensor(list(rows), device=self.inputs.device)

        def one(x: Tensor, y: Tensor) -> Tensor:
            return self._flat(grad(lambda p: self._loss(p, x, y))(self.params))

        return vmap(one, randomness="error")(self.inputs[index], self.targets[index])

    def as_scipy(self):
        """Return the mean Hessian as a ``scipy.sparse.linalg.LinearOperator``."""
        from scipy.sparse.linalg import LinearOperator

        def apply(v: np.ndarray) -> np.ndarray:
            vector = torch.as_tensor(np.asarray(v).ravel(), dtype=self.dtype, device=self.device)
            return self.mean_matvec(vector).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        size = self.num_parameters
        return LinearOperator((size, size), matvec=apply, rmatvec=apply, dtype=dtype)

    def _output(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.model, params, (x[None],))

    def _loss(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.loss_fn(self._output(params, x), y[None])

    def _product(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        direction = self._unflat(v)
        if self.part == "outer":
            return self._outer(x, y, direction)

        def loss_at(params: dict[str, Tensor]) -> Tensor:
            return self._loss(params, x, y)

        full = self._flat(jvp(grad(loss_at), (self.params,), (direction,))[1])
        return full if self.part == "full" else full - self._outer(x, y, direction)

    def _outer(self, x: Tensor, y: Tensor, direction: dict[str, Tensor]) -> Tensor:
        def output_of(params: dict[str, Tensor]) -> Tensor:
            return self._output(params, x)

        def loss_of(output: Tensor) -> Tensor:
            return self.loss_fn(output, y[None])

        output, moved = jvp(output_of, (self.params,), (direction,))[:2]
        bent = jvp(grad(loss_of), (output,), (moved,))[1]
        pull_back = vjp(output_of, self.params)[1]
        return self._flat(pull_back(bent)[0])

    def _flat(self, tensors: dict[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].reshape(-1) for name in self.params])

    def _unflat(self, v: Tensor) -> dict[str, Tensor]:
        pieces = v.split([p.numel() for p in self.params.values()])
        return {name: piece.view(p.shape) for (name, p), piece in zip(self.params.items(), pieces, strict=True)}

    def _chunks(self, rows: Sequence[int]) -> list[list[int]]:
        # A product of one sample holds about six copies of the parameters (point, tangent, gradient and their pairs).
        size = max(1, MEMORY_BYTES // (6 * 8 * self.num_parameters))
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _chosen(model: nn.Module, params: str | Sequence[str]) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    if params == "trainable":
        chosen = {name: p.detach() for name, p in named.items() if p.requires_grad}
    else:
        names = [params] if isinstance(params, str) else list(params)
        unknown = [name for name in names if name not in named]
        if unknown:
            raise InputError(f"params names {unknown[0]!r}, which the model does not have; it has {', '.join(named)}.")
        chosen = {name: named[name].detach() for name in names}
    if not chosen:
        raise InputError("params leaves nothing to differentiate; set requires_grad on the part that is trained.")
    return chosen
