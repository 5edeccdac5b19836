"""Run the samples of a data set through a network in chunks that fit a memory budget, and hand out graphs of them.

A chunk is run in the fastest way that the model allows, found by trying: as one batch (for means), each sample with its
own copy of the parameters (for single samples), or one sample after the other, which any module allows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from stillscape._errors import InputError
from stillscape._room import Halves
from stillscape.curvature.graph import Graph
from stillscape.curvature.network import Forward, Network
from stillscape.curvature.parameters import Parameters
from stillscape.curvature.samples import Tree, length, take
from stillscape.curvature.second_order import log, say_which_attention

COPIES = 4  # of the parameters that the graph of one sample holds, when it has its own: point, gradient, and on the way
MOST = 256  # samples of a chunk; more are no faster
ALONE = (
    "memory ran out in a product with the Hessian of a single sample; take fewer parameters (params=...), a smaller "
    "model, or a machine with more memory."
)
T = TypeVar("T")
Chunk = tuple[slice, tuple[int, ...]]  # where its results go, and which samples it holds


@dataclass
class Runner:
    """The samples, the network, and what was found out about them.

    Attributes:
        network: model, loss and parameters.
        inputs: of all samples.
        targets: likewise, or None.
        memory_bytes: what the activations and vectors of a chunk may take.
        sample_bytes: what the graph of one sample holds.
        is_batched: whether samples may share a batch.
        is_mapped: whether each may have its own copy of the parameters.
        kept: graphs that are kept between products, each with its bytes; None where none are.
    """

    network: Network
    inputs: Tree
    targets: Tree
    memory_bytes: int
    sample_bytes: int = 1
    is_batched: bool = True
    is_mapped: bool = True
    kept: dict[tuple[str, str, tuple[int, ...]], tuple[Graph, int]] | None = field(default=None, repr=False)
    halves: Halves = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin with whole chunks."""
        self.halves = Halves(ALONE, self._let_go)

    @property
    def parameters(self) -> Parameters:
        """Those that are differentiated."""
        return self.network.parameters

    # ---- finding out -------------------------------------------------------------------------------------------------

    def try_out(self) -> None:
        """Find out how samples can be run, and how large the graph of one is."""
        with torch.no_grad():
            say_which_attention(self.network.model, lambda: self.alone(0, self.leaves()))
        loss = self._measure()
        if not torch.isfinite(loss):
            raise InputError(f"the loss of sample 0 is {float(loss)}; it must be finite. Look at that sample.")
        self.is_batched = self._works("as one batch", self._try_batch)
        self.is_mapped = self._works("each with its own parameters", self._try_each)

    def _measure(self) -> Tensor:
        own = {p.data_ptr() for p in self.network.model.parameters()}
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            leaves = self.leaves()
            forward = self.alone(0, leaves)
            Graph(forward, leaves, "full")
        self.sample_bytes = max(1, sum(seen.values()))
        return forward.losses.detach()[0]

    def _works(self, how: str, attempt: Callable[[], bool]) -> bool:
        try:
            worked = attempt()
            reason = "the losses are others than those of single samples"
        except Exception as error:  # whatever a foreign model raises there: alone it ran, so this way isn't for it
            worked, reason = False, (str(error).splitlines() or [type(error).__name__])[0][:120]
        if not worked:
            log.warning("samples can't be run %s (%s); they are run one by one, which is slower.", how, reason)
        return worked

    def _try_batch(self) -> bool:
        rows = self._trial_rows()
        try:
            losses = self.batch(rows, self.leaves()).losses
        except RuntimeError:
            self.network.loss_is_mapped = False
            losses = self.batch(rows, self.leaves()).losses
        return self._same(losses, rows)

    def _try_each(self) -> bool:
        rows = self._trial_rows()
        leaves = self.leaves_of_each(len(rows))
        forward = self.each(rows, leaves)
        Graph(forward, leaves, "full")  # some operations fail only when they are differentiated
        return self._same(forward.losses, rows)

    def _trial_rows(self) -> tuple[int, ...]:
        return tuple(range(min(2, length(self.inputs))))

    def _same(self, losses: Tensor, rows: tuple[int, ...]) -> bool:
        alone = torch.cat([self.alone(row, self.leaves()).losses for row in rows])
        eps = torch.finfo(losses.dtype).eps
        return bool(((losses - alone).abs() <= 1e4 * eps * (1 + alone.abs())).all())

    # ---- forward -----------------------------------------------------------------------------------------------------

    def leaves(self, shift: Tensor | None = None) -> list[Tensor]:
        """Return the parameters, perhaps moved, as leaves of a new graph."""
        values = self.parameters.values()
        if shift is not None:
            values = [value + step for value, step in zip(values, self.parameters.split(shift), strict=True)]
        return [value.requires_grad_() for value in values]

    def leaves_of_each(self, n: int) -> list[Tensor]:
        """Return a copy of the parameters for each of `n` samples."""
        return [value.expand(n, *value.shape).clone().requires_grad_() for value in self.parameters.values()]

    def alone(self, row: int, leaves: Sequence[Tensor]) -> Forward:
        """Run one sample."""
        x, y = self._take((row,))
        return self.network.alone(leaves, x, y)

    def batch(self, rows: tuple[int, ...], leaves: Sequence[Tensor]) -> Forward:
        """Run samples as one batch."""
        if len(rows) == 1:
            return self.alone(rows[0], leaves)
        return self.network.batch(leaves, *self._take(rows))

    def each(self, rows: tuple[int, ...], leaves: Sequence[Tensor]) -> Forward:
        """Run samples, each with its own parameters."""
        return self.network.each(leaves, *self._take(rows))

    def _take(self, rows: tuple[int, ...]) -> tuple[Tree, Tree]:
        device = self.parameters.device
        targets = None if self.targets is None else take(self.targets, rows, device)
        return take(self.inputs, rows, device), targets

    # ---- graphs, chunk by chunk --------------------------------------------------------------------------------------

    def chunks_of_batch(self, rows: Sequence[int]) -> Iterator[Chunk]:
        """Yield chunks that are summed over."""
        size = min(MOST, max(1, self.memory_bytes // (2 * self.sample_bytes))) if self.is_batched else 1
        return self._chunks(rows, min(size, self.halves.fits or size))

    def chunks_of_each(self, rows: Sequence[int]) -> Iterator[Chunk]:
        """Yield chunks of which each sample has a result of its own."""
        return self._chunks(rows, self.at_once)

    @property
    def at_once(self) -> int:
        """How many samples of which each has a result of its own are run together."""
        each = self.sample_bytes + self._own_bytes
        size = min(MOST, max(1, self.memory_bytes // each)) if self.is_mapped else 1
        return min(size, self.halves.fits or size)

    def over_batch(self, rows: Sequence[int], work: Callable[[tuple[int, ...]], T]) -> Iterator[T]:
        """Yield work on all samples, chunk by chunk, in halves where the memory is short; it may be begun again.

        Raises:
            RunError: if memory runs out with a single sample.
        """
        for _, chunk in self.chunks_of_batch(rows):
            yield from self.halves.parts(len(chunk), partial(_on_part, chunk, work))

    def over_each(self, rows: Sequence[int], work: Callable[[tuple[int, ...], slice], None]) -> None:
        """Likewise where each sample has a result of its own; `work` is told where among `rows` the results go.

        Raises:
            RunError: if memory runs out with a single sample.
        """
        for place, chunk in self.chunks_of_each(rows):
            for _ in self.halves.parts(len(chunk), partial(_on_places, chunk, place.start, work)):
                pass

    def _let_go(self, at_once: int) -> None:
        if self.kept:
            self.kept.clear()
        if self.halves.fits is None:
            log.warning("memory ran out with %s samples at a time; products go on with half as many.", at_once)

    def _chunks(self, rows: Sequence[int], size: int) -> Iterator[Chunk]:
        for start in range(0, len(rows), size):
            chunk = tuple(rows[start : start + size])
            yield slice(start, start + len(chunk)), chunk

    def graph_of_batch(self, chunk: tuple[int, ...], part: str) -> Graph:
        """Return the graph of the sum of a chunk's losses in shared parameters."""

        def make() -> Graph:
            leaves = self.leaves()
            return Graph(self.batch(chunk, leaves), leaves, part)

        return self._kept_or_made(("batch", part, chunk), len(chunk) * self.sample_bytes, make)

    def graph_of_each(self, chunk: tuple[int, ...], part: str) -> Graph:
        """Return the graph of a chunk's losses, each in its own copy of the parameters."""
        if not self.is_mapped:
            return self.graph_of_batch(chunk, part)

        def make() -> Graph:
            leaves = self.leaves_of_each(len(chunk))
            return Graph(self.each(chunk, leaves), leaves, part)

        return self._kept_or_made(("each", part, chunk), len(chunk) * (self.sample_bytes + self._own_bytes), make)

    def gradient_of_batch(self, chunk: tuple[int, ...], part: str, shift: Tensor | None = None) -> Sequence[Tensor]:
        """Return the gradient of the sum of a chunk's losses at w, or at w + `shift`; `part` is that of products."""
        if shift is None and self.kept is not None and part == "full":
            return [g.detach() for g in self.graph_of_batch(chunk, part).first]  # which products will need as well
        leaves = self.leaves(shift)
        return torch.autograd.grad(self.batch(chunk, leaves).losses.sum(), leaves, materialize_grads=True)

    def gradient_of_each(self, chunk: tuple[int, ...]) -> Sequence[Tensor]:
        """Return the gradient of each of a chunk's losses."""
        leaves = self.leaves_of_each(len(chunk)) if self.is_mapped else self.leaves()
        losses = (self.each if self.is_mapped else self.batch)(chunk, leaves).losses
        return torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)

    @property
    def _own_bytes(self) -> int:
        return COPIES * self.parameters.size * torch.finfo(self.parameters.dtype).bits // 8

    def _kept_or_made(self, key: tuple[str, str, tuple[int, ...]], num_bytes: int, make: Callable[[], Graph]) -> Graph:
        if self.kept is None:
            return make()
        if key not in self.kept:
            graph = make()
            if sum(held for _, held in self.kept.values()) + num_bytes > self.memory_bytes:
                return graph
            self.kept[key] = (graph, num_bytes)
        return self.kept[key][0]


def _on_part(chunk: tuple[int, ...], work: Callable[[tuple[int, ...]], T], part: slice) -> T:
    return work(chunk[part])


def _on_places(chunk: tuple[int, ...], start: int, work: Callable[[tuple[int, ...], slice], None], part: slice) -> None:
    work(chunk[part], slice(start + part.start, start + part.stop))
