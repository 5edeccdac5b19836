"""The exact Hessian of a layer, a block or a chain, in every form that somebody needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, one_of, positive
from stillscape._errors import InputError
from stillscape._lanczos import lanczos
from stillscape.hessian import _arguments
from stillscape.hessian.assemble import PARTS, Assembly
from stillscape.hessian.each_sample import EachSample
from stillscape.hessian.layers import Chain
from stillscape.hessian.layout import Layout, slices
from stillscape.hessian.losses import Expansion, Loss, OutputLoss
from stillscape.hessian.memory import Buffers, fresh
from stillscape.hessian.rights import Right
from stillscape.hessian.summed import Summed
from stillscape.hessian.sweep import Sweep, Trace
from stillscape.hessian.upper import Upper

CHUNK_BYTES = 32 * 2**20  # what a chunk of samples may hold beside the result; much more no longer fits the cache
SUMMED_BYTES = 20 * 2**20  # the same for a mean, or a share of the result if that is more: larger products are faster
SUMMED_SHARE = 6
KEPT = 8  # traces that are remembered in a mean
FEW = 16  # at so many matrices of each token no sample is tried for what it really holds


@dataclass(frozen=True)
class Network:
    """A chunk of samples at the point w: what is differentiated, what follows it, and the loss at the end."""

    inputs: Float[Tensor, "n L m"]
    layers: Chain
    tail: Chain
    loss: Loss


class Linearized:
    """A network run forward and backward once, its loss times `weight`."""

    def __init__(self, network: Network, weight: float = 1.0) -> None:
        self.layers, self.tail = network.layers, network.tail
        self.inputs = network.inputs
        self.middle = self.layers.forward(self.inputs)
        end = network.loss.expand(self.tail.forward(self.middle))
        self.end = end if weight == 1.0 else end.scaled(weight)
        self.adjoint = self.tail.backward(self.end.gradient)
        self.layers.backward(self.adjoint)

    def sweep(self, keep: int | None = None) -> Sweep:
        """Carry the parameters' families to the end of the differentiated layers, and note what curves per token."""
        sweep = Sweep(keep=keep)
        self.layers.carry(sweep)
        if not self.tail.layers and self.end.diagonal is not None:
            sweep.bend(Expansion.common_or_all(self.end.diagonal), outer=True)
        return sweep

    def outputs(self, part: str) -> list[tuple[str, Expansion]]:
        """Return what curves at the end of the differentiated layers beyond single tokens, by part."""
        if not self.tail.layers:
            return [("outer", Expansion(None, self.end.gradient, factor=self.end.factor, dense=self.end.dense))]
        found = []
        if part != "functional":
            found.append(("outer", self._outer_of_tail()))
        if part != "outer":
            found.append(("functional", Expansion(None, self.adjoint, dense=self._through_tail(curved=True))))
        return found

    def products(self, direction: dict[str, Tensor], part: str) -> dict[str, Tensor]:
        """Return the product of the Hessian with a direction, by name of parameter."""
        out: dict[str, Tensor] = {}
        change, memo = self.layers.tangent(torch.zeros_like(self.inputs), direction)
        change, after = self.tail.tangent(change, {})
        moved = torch.zeros_like(change) if part == "functional" else self.end.apply(change)
        curved = part != "outer"
        moved = self.tail.tangent_backward(moved, after, {}, curved, {})
        self.layers.tangent_backward(moved, memo, direction, curved, out)
        return out

    def _outer_of_tail(self) -> Expansion:
        """Return J'BJ of the tail at its input, as a factor where the loss has one."""
        if self.end.factor is not None and self.end.diagonal is None and self.end.dense is None:
            directions = self.end.factor.transpose(0, 1)
            _, memo = self.tail.tangent(torch.zeros_like(self.middle).expand(len(directions), *self.middle.shape), {})
            pulled = self.tail.tangent_backward(directions, memo, {}, False, {})
            return Expansion(None, self.adjoint, factor=pulled.transpose(0, 1))
        return Expansion(None, self.adjoint, dense=self._through_tail(curved=False))

    def _through_tail(self, curved: bool) -> Float[Tensor, "n Lm Lm"]:
        """Return the Hessian in the tail's input: its functional part, or its outer part, a column at a time."""
        n, tokens, features = self.middle.shape
        unit = torch.eye(tokens * features, dtype=self.middle.dtype, device=self.middle.device)
        columns = []
        for rows in unit.split(max(1, CHUNK_BYTES // (64 * self.middle.numel()))):
            change, memo = self.tail.tangent(rows.reshape(-1, 1, tokens, features).expand(-1, n, -1, -1), {})
            moved = torch.zeros_like(change) if curved else self.end.apply(change)
            columns.append(self.tail.tangent_backward(moved, memo, {}, curved, {}).flatten(-2))
        return torch.cat(columns).permute(1, 2, 0)


class ExactHessian:
    r"""The Hessian of each sample's loss in the parameters of a layer, a block, or one block of a chain.

    Made by `self_attention`, `transformer_block` and `transformer_chain`. Nothing is computed before it is asked for.
    Every form takes a part of :math:`H = H_o + H_f` (docs/theory, section 5.4): "outer" is :math:`J^\top B J` with B
    the Hessian of the loss at the output (Gauss-Newton), "functional" what the network's own curvature adds.

    Attributes:
        names: parameters in order; each is flattened row by row.
        shapes: of each parameter.
        num_samples: n.
        num_parameters: P.
    """

    def __init__(self, network: Callable[[slice], Network], shapes: dict[str, tuple[int, ...]], samples: int) -> None:
        self._network, self._layout = network, Layout(shapes)
        self.shapes = dict(shapes)
        self.names = tuple(shapes)
        self.num_samples, self.num_parameters = samples, self._layout.size
        self._kept: tuple[slice, Linearized] | None = None
        self._sample_bytes: tuple[int, int] | None = None
        first = network(slice(0, 1))
        self._like = first.layers.forward(first.inputs)
        first.loss.expand(first.tail.forward(self._like))  # what doesn't fit is said here, not at the first product

    def dense(self, part: str = "full") -> Float[Tensor, "n P P"]:
        """Return the Hessian of every sample.

        Args:
            part: "full", "outer" or "functional".

        Raises:
            InputError: an unknown part.

        Cost: about L P^2 multiply-adds for each sample; memory is that of the result and one chunk of samples.
        """
        return self._per_sample(self._layout, self._layout, part)

    def block(self, rows: str, columns: str, part: str = "full") -> Float[Tensor, "n p q"]:
        """Return the block of two parameters by name, of every sample; nothing else is computed.

        Raises:
            InputError: an unknown name or part.

        Cost: about L p q multiply-adds for each sample, and the forward and backward pass.
        """
        for argument, name in (("rows", rows), ("columns", columns)):
            one_of(argument, name, self.names)
        return self._per_sample(self._layout.only(rows), self._layout.only(columns), part)

    def mean(self, part: str = "full") -> Float[Tensor, "P P"]:
        """Return the mean Hessian over the samples, without the matrix of any single one.

        Raises:
            InputError: an unknown part.

        Cost: about n L P^2 / 2 multiply-adds as large matrix products; memory is that of the result and one chunk.
        """
        one_of("part", part, PARTS)
        out, buffers = None, Buffers()
        for rows in self._chunks(summed=True):
            out = self._summed(rows, part, buffers, out)
        del buffers
        assert out is not None  # there is no network without samples
        return out.whole()

    def matvec(self, v: Float[Tensor, " P"] | Float[Tensor, "n P"], part: str = "full") -> Float[Tensor, "n P"]:
        """Return the products H_i v, or H_i v_i with one vector for each sample, without any matrix.

        The tangent of the gradient, in closed form (docs/theory, Proposition 3).

        Raises:
            InputError: a vector that does not fit, or an unknown part.

        Cost: about twice that of a gradient; linear in P, memory n (L^2 + L d).
        """
        one_of("part", part, PARTS)
        like = self._like
        if isinstance(v, Tensor) and v.ndim == 2:
            v = _arguments.real_tensor("v", v, (self.num_samples, self.num_parameters), like)
        else:
            v = _arguments.real_tensor("v", v, (self.num_parameters,), like).expand(self.num_samples, -1)
        return torch.cat([self._products(rows, v[rows], part) for rows in self._chunks()])

    def gradient(self) -> Float[Tensor, "n P"]:
        """Return the gradient of every sample's loss."""
        assemblies = (Assembly(self._at(rows).sweep(), [], "full") for rows in self._chunks())
        return torch.cat([assembly.gradient(self._layout) for assembly in assemblies])

    def losses(self) -> Float[Tensor, " n"] | None:
        """Return every sample's loss, or None where only derivatives of it were given."""
        values = [self._at(rows).end.value for rows in self._chunks()]
        return None if values[0] is None else torch.cat(values)  # type: ignore[arg-type]

    def effective_loss(self) -> tuple[Float[Tensor, "n L m"], OutputLoss]:
        """Return what enters the differentiated layers, and all that follows them as a loss on their output.

        Its gradient is the adjoint there, its Hessian J'BJ + the curvature of the layers in between: with it, whatever
        holds for one block with a loss of its own holds for a block of a chain (docs/theory, section 5.6).

        Cost: L m products of a vector with the Hessian of what follows; memory n (L m)^2.
        """
        entered, gradients, hessians = [], [], []
        for rows in self._chunks():
            at = self._at(rows)
            ends = [expansion for _, expansion in at.outputs("full")] if at.tail.layers else [at.end]
            total = torch.stack([expansion.matrix() for expansion in ends]).sum(0)
            entered.append(at.inputs)
            gradients.append(at.adjoint)
            hessians.append(0.5 * (total + total.mT))
        return torch.cat(entered), OutputLoss(torch.cat(gradients), torch.cat(hessians))

    def outer_factor(self) -> Float[Tensor, "n K P"]:
        """Return F of every sample with outer part F'F, of rank at most C - 1 for a pooled cross-entropy.

        Raises:
            InputError: the loss has no such factor (only a cross-entropy with pool "mean" or "cls" does).

        Cost: about K L P multiply-adds for each sample; memory n K P.
        """
        if self._at(slice(0, 1)).end.factor is None:
            raise InputError('loss has no low-rank Hessian; only CrossEntropy with pool="mean" or "cls" does.')
        factors = [self._assembly(rows, "outer").factor(self._layout) for rows in self._chunks()]
        return torch.cat(factors)  # type: ignore[arg-type]

    def spectral_norm(self, part: str = "full", tol: float = 1e-7, max_steps: int | None = None) -> Float[Tensor, " n"]:
        """Return the largest magnitude of an eigenvalue, of every sample, by Lanczos on `matvec`.

        Args:
            part: "full", "outer" or "functional".
            tol: relative residual at which a sample is done; the error of the value is about its square.
            max_steps: products at most; default P, at which Lanczos is exact.

        Raises:
            InputError: `tol` not above zero, or an unknown part.

        Cost: one `matvec` a step, all samples at once; memory steps x n x P.
        """
        one_of("part", part, PARTS)
        positive("tol", tol)
        steps = (
            self.num_parameters if max_steps is None else min(at_least("max_steps", max_steps, 1), self.num_parameters)
        )
        norms = []
        for rows in self._chunks():
            count = rows.stop - rows.start
            like = self._at(rows).middle
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(count, self.num_parameters, generator=generator, dtype=like.dtype).to(like.device)
            values, _, _ = lanczos(lambda v, rows=rows: self._products(rows, v, part), start, 1, tol, steps)  # type: ignore[misc]
            norms.append(values[:, 0].abs())
        return torch.cat(norms)

    def _per_sample(self, rows: Layout, columns: Layout, part: str) -> Tensor:
        one_of("part", part, PARTS)
        out = fresh(self._like, self.num_samples, rows.size, columns.size)
        buffers = Buffers()
        for chunk in self._chunks():
            self._assembly(chunk, part, buffers).write(out[chunk], rows, columns)
        return out

    def _summed(self, rows: slice, part: str, buffers: Buffers, out: Upper | None) -> Upper:
        """Add a chunk of the mean; with `out` None, to a new one."""
        at = Linearized(self._network(rows), 1.0 / self.num_samples)
        summed = Summed(at.sweep(keep=KEPT), at.outputs(part), part, buffers)
        out = Upper(self._like, self.num_parameters, summed.patches(self._layout)) if out is None else out
        summed.add_upper(out, self._layout)
        return out

    def _products(self, rows: slice, v: Float[Tensor, "n P"], part: str) -> Float[Tensor, "n P"]:
        products = self._at(rows).products(self._layout.split(v), part)
        return self._layout.join(products, len(v))

    def _assembly(self, rows: slice, part: str, buffers: Buffers | None = None) -> EachSample:
        at = self._at(rows)
        return EachSample(at.sweep(), at.outputs(part), part, buffers)

    def _at(self, rows: slice) -> Linearized:
        """Return the network of some samples at the point; the last one is kept, for products come in rows."""
        if self._kept is None or self._kept[0] != rows:
            self._kept = (rows, Linearized(self._network(rows)))
        return self._kept[1]

    def _chunks(self, summed: bool = False) -> list[slice]:
        """Return the samples in parts of about the same size that fit the memory a chunk may hold."""
        _, tokens, features = self._like.shape
        widest = max(features, *(size for shape in self.shapes.values() for size in shape))
        if summed and FEW * self.num_samples * tokens * widest**2 * self._like.element_size() <= SUMMED_BYTES:
            return [slice(0, self.num_samples)]
        if self._sample_bytes is None:
            self._sample_bytes = _bytes(self._at(slice(0, 1)).sweep())
        while_summed, by_itself = self._sample_bytes
        result = self.num_parameters**2 * self._like.element_size()
        most = max(SUMMED_BYTES, result // SUMMED_SHARE) // while_summed if summed else CHUNK_BYTES // by_itself
        parts = -(-self.num_samples // max(1, most))
        return slices(self.num_samples, -(-self.num_samples // parts))


def _bytes(sweep: Sweep) -> tuple[int, int]:
    """Return about what one sample holds beside the result: while samples are summed, or by itself."""
    families = sweep.families.values()
    first, widths = next(iter(families)), [family.adjoint.shape[-1] for family in families]
    cores = first.left.shape[1] * first.left.element_size() * sum(a * b for a in widths for b in widths) // 2
    held = sum(_held(family.left) + _held(family.adjoint) for family in families)
    held += sum(_held(curvature) for curvature, _ in sweep.curvatures)
    traces = sorted(sum(_held(right) for right in _rights(sweep.trace(number))) for number in sweep.numbers)
    return held + sum(traces[-KEPT:]), held + sum(traces) + cores


def _rights(trace: Trace) -> list[Right]:
    return [trace.right, *trace.at_points.values(), *trace.inputs.values(), *trace.cores.values()]


def _held(right: Right) -> int:
    return 0 if right is None else right.numel() * right.element_size()
