"""Products of per-sample Hessians with vectors, for any module and loss, without forming a matrix."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from stillscape._checks import at_least, one_of
from stillscape._errors import InputError
from stillscape.curvature.graph import PARTS, Graph
from stillscape.curvature.network import LossFn, Network
from stillscape.curvature.parameters import choose
from stillscape.curvature.runner import Runner
from stillscape.curvature.samples import Tree, as_tree, length, take

MEMORY_BYTES = 2**30


class PerSampleHessian:
    r"""Return products with the Hessians :math:`H_i = \nabla^2 \ell_i(w)` of single samples, or with their mean.

    With :math:`z_i` the model's output, :math:`\ell_i = \ell(z_i)`, the Hessian splits into

    .. math:: H_i = J_i^\top \nabla^2\ell(z_i) J_i + \sum_c \partial_c \ell(z_i) \nabla^2 z_{ic}

    the outer-product part (Gauss-Newton) and the functional part (Schraudolph 2002, eq. 5; Martens 2020, sec. 6).
    Products are reverse over reverse, which is right through ``nn.LayerNorm``; dropout is off and attention is
    computed by a kernel that has second derivatives while they are taken. Vectors lie in rows.

    Args:
        model: any module; its present parameters are the point w.
        loss_fn: ``loss_fn(model(x[None]), y[None])`` must be the scalar loss of one sample. The model's output is
            handed on as it is: a tensor, or whatever holds tensors.
        inputs: a tensor with samples along its first axis; or a mapping of such, given as keyword arguments; or a
            tuple, as positional ones.
        targets: likewise, or None.
        params: ``"trainable"`` (those with ``requires_grad``), names, or patterns such as ``"*.attention.*"``.
        part: ``"full"``, ``"outer"``, ``"functional"`` (full - outer), or ``"fisher"``: the empirical Fisher, whose
            H_i is the outer product of the gradient of sample i with itself.
        memory_bytes: how much activations and vectors of samples that are computed together may take.
        check: whether products are tested at once on a few samples (about a dozen gradients; see `self_check`).

    Raises:
        InputError: if inputs and targets differ in length, a name is unknown, nothing is trainable, the parameters are
            of half precision, or the loss isn't one number.
        SelfCheckError: if products contradict themselves or a finite difference.

    Cost: a product of the mean takes about four gradients, inside `linearized` some 2.3; one of a single sample (all
        samples at once, each with its own result) about four to five of that sample.

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
        inputs: Tree,
        targets: Tree,
        params: str | Sequence[str] = "trainable",
        part: str = "full",
        *,
        memory_bytes: int = MEMORY_BYTES,
        check: bool = True,
    ) -> None:
        self.part = one_of("part", part, PARTS)
        inputs = as_tree("inputs", inputs)
        targets = targets if targets is None else as_tree("targets", targets)
        if targets is not None and length(inputs) != length(targets):
            raise InputError(
                f"inputs hold {length(inputs)} samples and targets {length(targets)}; they must be as many."
            )
        network = Network(model, loss_fn, choose(model, params))
        self._runner = Runner(network, inputs, targets, at_least("memory_bytes", memory_bytes, 1))
        self._runner.try_out()
        self.num_sample_products = 0
        if check:
            from stillscape.curvature.self_check import self_check  # which itself needs this class

            self_check(self)
            self.num_sample_products = 0

    @property
    def num_samples(self) -> int:
        """How many samples the mean is over."""
        return length(self._runner.inputs)

    @property
    def num_parameters(self) -> int:
        """P, how many numbers the chosen parameters hold."""
        return self._runner.parameters.size

    @property
    def slices(self) -> dict[str, slice]:
        """Where each chosen parameter lies in a vector, in order."""
        return self._runner.parameters.slices

    @property
    def at_once(self) -> int:
        """How many samples of which each has a result of its own are run together."""
        return self._runner.at_once

    @property
    def memory_bytes(self) -> int:
        """How much samples that are computed together may take."""
        return self._runner.memory_bytes

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of every product."""
        return self._runner.parameters.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters lie; samples are brought there chunk by chunk."""
        return self._runner.parameters.device

    def matvec(self, i: int, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Return H_i v for sample `i`."""
        return self.products([i], self._vectors("v", v, 1)[None])[0]

    def products(self, rows: Sequence[int], vectors: Float[Tensor, "rows P"]) -> Float[Tensor, "rows P"]:
        """Return H_i v_i for each of `rows` with its own vector, all at once."""
        rows, vectors = self._rows(rows), self._vectors("vectors", vectors, 2)
        if len(vectors) != len(rows):
            raise InputError(f"vectors hold {len(vectors)} rows for {len(rows)} samples; each needs its own.")
        result = torch.zeros_like(vectors)

        def work(rows: tuple[int, ...], place: slice) -> None:
            self._add(self._runner.graph_of_each(rows, self.part), vectors[place], result[place])

        self._runner.over_each(rows, work)
        self.num_sample_products += len(rows)
        return result

    def sample_matmat(self, rows: Sequence[int], vectors: Float[Tensor, "c P"]) -> Float[Tensor, "rows c P"]:
        """Return H_i v_j for each of `rows` and every vector.

        Cost: one graph of each sample, then one backward pass for each vector; memory rows x c x P for the result.
        """
        rows, vectors = self._rows(rows), self._vectors("vectors", vectors, 2)
        result = vectors.new_zeros(len(rows), *vectors.shape)

        def work(rows: tuple[int, ...], place: slice) -> None:
            result[place] = 0  # in case it was begun before
            graph = self._runner.graph_of_each(rows, self.part)
            for j, vector in enumerate(vectors):
                self._add(graph, vector.expand(len(rows), -1), result[place, j])

        self._runner.over_each(rows, work)
        self.num_sample_products += len(rows) * len(vectors)
        return result

    def mean_matvec(self, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Return the mean over all samples of H_i v."""
        return self.mean_matmat(self._vectors("v", v, 1)[None])[0]

    def mean_matmat(self, vectors: Float[Tensor, "c P"]) -> Float[Tensor, "c P"]:
        """Return the mean over all samples of H_i v_j, for every vector."""
        vectors = self._vectors("vectors", vectors, 2)
        result = torch.zeros_like(vectors)
        for _, chunk in self._runner.chunks_of_batch(range(self.num_samples)):
            graphs = _Last(self._runner, self.part)
            for vector, products in zip(vectors, result, strict=True):
                for moved in self._runner.over_batch(chunk, partial(graphs.product, vector)):
                    self._runner.parameters.join(moved, products)
        self.num_sample_products += self.num_samples * len(vectors)
        return result / self.num_samples

    @contextmanager
    def linearized(self) -> Iterator[None]:
        """Keep graphs between products, as far as `memory_bytes` goes: about 2.3 gradients each instead of four.

        The model's parameters must not change meanwhile.
        """
        if self._runner.kept is not None:  # inside another such block: that one ends it
            yield
            return
        self._runner.kept = {}
        try:
            yield
        finally:
            self._runner.kept = None

    def losses(
        self, rows: Sequence[int] | None = None, shift: Float[Tensor, " P"] | None = None
    ) -> Float[Tensor, " rows"]:
        """Return the losses of `rows` (all unless given) at w, or at w + `shift`."""
        with torch.no_grad():
            leaves = self._runner.leaves(self._shift(shift))
            found = self._runner.over_batch(self._rows(rows), lambda rows: self._runner.batch(rows, leaves).losses)
            return torch.cat(list(found))

    def gradients(self, rows: Sequence[int] | None = None) -> Float[Tensor, "rows P"]:
        """Return the gradient of the loss of each of `rows` (all unless given)."""
        rows = self._rows(rows)
        result = torch.zeros(len(rows), self.num_parameters, dtype=self.dtype, device=self.device)

        def work(rows: tuple[int, ...], place: slice) -> None:
            self._runner.parameters.join(self._runner.gradient_of_each(rows), result[place])

        self._runner.over_each(rows, work)
        return result

    def mean_gradient(
        self, rows: Sequence[int] | None = None, shift: Float[Tensor, " P"] | None = None
    ) -> Float[Tensor, " P"]:
        """Return the gradient of the mean loss over `rows` (all unless given) at w, or at w + `shift`."""
        rows, shift = self._rows(rows), self._shift(shift)
        result = torch.zeros(self.num_parameters, dtype=self.dtype, device=self.device)
        of_part = partial(self._runner.gradient_of_batch, part=self.part, shift=shift)
        for gradient in self._runner.over_batch(rows, of_part):
            self._runner.parameters.join(gradient, result)
        return result / len(rows)

    def point(self) -> Float[Tensor, " P"]:
        """Return w, the chosen parameters' present values, as one vector."""
        return torch.cat([value.reshape(-1) for value in self._runner.parameters.values()])

    def subset(self, rows: Sequence[int]) -> "PerSampleHessian":
        """Return the same for some of the samples only, with a count of products of its own."""
        rows, runner = self._rows(rows), self._runner
        targets = None if runner.targets is None else take(runner.targets, rows)
        return self._with(replace(runner, inputs=take(runner.inputs, rows), targets=targets, kept=None), self.part)

    def with_part(self, part: str) -> "PerSampleHessian":
        """Return the same for another part of the Hessian, with a count of products of its own."""
        return self._with(replace(self._runner, kept=None), one_of("part", part, PARTS))

    def restricted(self, params: str | Sequence[str]) -> "PerSampleHessian":
        """Return the diagonal block of other parameters, named as in the constructor, with a count of its own."""
        network = replace(self._runner.network, parameters=choose(self._runner.network.model, params))
        return self._with(replace(self._runner, network=network, kept=None), self.part)

    def as_scipy(self):
        """Return the mean as a ``scipy.sparse.linalg.LinearOperator``."""
        from scipy.sparse.linalg import LinearOperator

        def apply(v: np.ndarray) -> np.ndarray:
            vectors = torch.as_tensor(
                np.ascontiguousarray(v.reshape(len(v), -1).T), dtype=self.dtype, device=self.device
            )
            return self.mean_matmat(vectors).cpu().numpy().T.reshape(v.shape)

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        size = self.num_parameters
        return LinearOperator((size, size), matvec=apply, rmatvec=apply, matmat=apply, rmatmat=apply, dtype=dtype)

    def _with(self, runner: Runner, part: str) -> "PerSampleHessian":
        runner.halves.fits = self._runner.halves.fits  # what was learned, and said, holds there too
        other = copy.copy(self)
        other._runner, other.part, other.num_sample_products = runner, part, 0
        return other

    def _rows(self, rows: Sequence[int] | None) -> tuple[int, ...]:
        if rows is None:
            return tuple(range(self.num_samples))
        chosen = tuple(int(row) for row in rows)
        outside = [row for row in chosen if not 0 <= row < self.num_samples]
        if outside or not chosen:
            got = f"sample {outside[0]}" if outside else "nothing"
            raise InputError(f"rows names {got}; samples are numbered from 0 to {self.num_samples - 1}.")
        return chosen

    def _vectors(self, name: str, vectors: Tensor, axes: int) -> Tensor:
        if not isinstance(vectors, Tensor) or vectors.ndim != axes or vectors.shape[-1] != self.num_parameters:
            got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            expected = f"({'vectors, ' if axes == 2 else ''}{self.num_parameters})"
            raise InputError(f"{name} is {got}; it must be a tensor of shape {expected}, one number a parameter.")
        return vectors.detach().to(self.device, self.dtype)

    def _shift(self, shift: Tensor | None) -> Tensor | None:
        return None if shift is None else self._vectors("shift", shift, 1)

    def _add(self, graph: Graph, vectors: Tensor, result: Tensor) -> None:
        """Add a graph's product with a vector (or one for each of its samples) to `result`."""
        self._runner.parameters.join(graph.product(self._runner.parameters.split(vectors)), result)


class _Last:
    """Products of a batch's Hessian, its graph kept from one vector to the next."""

    def __init__(self, runner: Runner, part: str) -> None:
        self._runner, self._part = runner, part
        self._rows: tuple[int, ...] = ()
        self._graph: Graph | None = None

    def product(self, vector: Tensor, rows: tuple[int, ...]) -> Sequence[Tensor]:
        """Return the product with `vector`, in pieces."""
        if self._graph is None or rows != self._rows:
            self._graph = None  # before the next one is made: both may be too much
            self._graph, self._rows = self._runner.graph_of_batch(rows, self._part), rows
        return self._graph.product(self._runner.parameters.split(vector))
