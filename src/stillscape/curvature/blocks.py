"""The Hessian by groups of parameters: which layers bend the loss, by how much, and how much of it is functional."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, one_of
from stillscape._errors import InputError
from stillscape.curvature.estimate import gaussian, root
from stillscape.curvature.groups import GROUPINGS, group_names
from stillscape.curvature.lanczos import top_eigenvalues
from stillscape.curvature.per_sample import PerSampleHessian

PARTS = ("full", "outer", "functional")


@dataclass(frozen=True)
class Block:
    """The diagonal block of one group.

    Attributes:
        group: its name.
        names: its parameters.
        size: how many numbers they hold.
        spectral: spectral norm of the block.
        converged: whether its residual is within the tolerance.
        trace: of the block, and its standard error.
        trace_stderr: see there.
        frobenius: Frobenius norm of each part that was asked for.
        frobenius_stderr: their standard errors.
    """

    group: str
    names: tuple[str, ...]
    size: int
    spectral: float
    converged: bool
    trace: float
    trace_stderr: float
    frobenius: dict[str, float]
    frobenius_stderr: dict[str, float]


@dataclass(frozen=True)
class BlockTable:
    """Norms of the mean Hessian, block by block.

    Attributes:
        blocks: of each group, in the order of its first parameter.
        coupling: Frobenius norms of the blocks between groups, (groups, groups), of the first part; symmetric up to
            its errors.
        coupling_stderr: standard errors.
        num_sample_products: products of one sample with one vector that were spent.
    """

    blocks: tuple[Block, ...]
    coupling: Float[Tensor, "g g"]
    coupling_stderr: Float[Tensor, "g g"]
    num_sample_products: int

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each group, of plain numbers: norms, trace, and each part's share of the first one's."""
        rows = []
        for block in self.blocks:
            first = next(iter(block.frobenius.values()))
            shares = {f"share_{part}": norm / first if first else 0.0 for part, norm in block.frobenius.items()}
            rows.append(
                {"group": block.group, "size": block.size, "spectral": block.spectral, "converged": block.converged,
                 "trace": block.trace, "trace_stderr": block.trace_stderr, "frobenius": first, **shares}
            )  # fmt: skip
        return rows


def block_table(
    hv: PerSampleHessian,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    *,
    by: str = "kind",
    parts: Sequence[str] = PARTS,
    num_vectors: int = 16,
    tol: float = 1e-2,
    max_steps: int = 50,
    seed: int = 0,
) -> BlockTable:
    r"""Return spectral norm, trace and Frobenius norms of the mean Hessian's blocks, by group of parameters.

    Random vectors x that live on one group b give :math:`E\|(Hx)_a\|^2 = \|H_{ab}\|_F^2` for every group a at once, and
    :math:`E\,x^\top H x = \mathrm{tr} H_{bb}` (Hutchinson 1990). Spectral norms are Lanczos's on the block alone.

    Args:
        hv: the operator; its samples, parameters and model.
        groups: patterns of names by group; each parameter goes to the first group that fits, the others to "other".
        by: how to group where `groups` is not given: "kind" (query, key, value, feed-forward, ...), "layer" or
            "parameter".
        parts: whose Frobenius norms are wanted; the first is also that of the trace and of the blocks between groups.
        num_vectors: on each group, at least 2.
        tol: of the spectral norms, relative residual.
        max_steps: of Lanczos on each block.
        seed: of all random vectors.

    Raises:
        InputError: if a part or grouping is unknown, or a pattern fits no parameter.

    Cost: for each group num_vectors products of each part, and at most max_steps more on the block alone.

    Example:
        l = (w x + b)^2 at x = 2 has the Hessian [[8, 4], [4, 2]].

        >>> model = torch.nn.Linear(1, 1)
        >>> hv = PerSampleHessian(model, lambda z, y: (z ** 2).sum(), torch.tensor([[2.0]]), None)
        >>> table = block_table(hv, by="parameter", parts=["full"])
        >>> [(row["group"], round(row["spectral"], 3)) for row in table.rows()]
        [('weight', 8.0), ('bias', 2.0)]
    """
    at_least("num_vectors", num_vectors, 2)
    for part in parts:
        one_of("parts", part, PARTS)
    if not parts:
        raise InputError("parts is empty; name at least one of full, outer, functional.")
    members = group_names(list(hv.slices), groups, one_of("by", by, GROUPINGS))
    places = {group: _places(hv, names) for group, names in members.items()}
    columns = {part: _columns(hv.with_part(part), places, num_vectors, seed) for part in parts}
    first = columns[parts[0]]
    spent = sum(column.spent for column in columns.values())
    blocks = []
    for number, (group, names) in enumerate(members.items()):
        alone = hv.with_part(parts[0]).restricted(names)
        top = top_eigenvalues(alone, 1, tol, max_steps, seed)
        spent += top.num_sample_products
        norms = {part: root(*column.squares[:, number, number]) for part, column in columns.items()}
        trace, trace_stderr = first.traces[:, number].tolist()
        blocks.append(
            Block(
                group=group,
                names=tuple(names),
                size=alone.num_parameters,
                spectral=float(top.values[0].abs()),
                converged=top.converged,
                trace=trace,
                trace_stderr=trace_stderr,
                frobenius={part: float(norm) for part, (norm, _) in norms.items()},
                frobenius_stderr={part: float(error) for part, (_, error) in norms.items()},
            )
        )
    return BlockTable(tuple(blocks), *root(*first.squares), spent)


@dataclass(frozen=True)
class _Columns:
    """Squared Frobenius norms of all blocks, (2, groups, groups), and traces, (2, groups): means, then errors."""

    squares: Tensor
    traces: Tensor
    spent: int


def _columns(hv: PerSampleHessian, places: dict[str, Tensor], num_vectors: int, seed: int) -> _Columns:
    """Measure one part by random vectors on each group in turn; columns of blocks are groups that vectors live on."""
    generator = torch.Generator().manual_seed(seed)
    squares, traces = [], []
    with hv.linearized():
        for place in places.values():
            vectors = torch.zeros(num_vectors, hv.num_parameters, dtype=hv.dtype, device=hv.device)
            vectors[:, place] = gaussian(hv, num_vectors, len(place), generator)
            products = hv.mean_matmat(vectors)
            squares.append(_mean([products[:, other].double().square().sum(1) for other in places.values()]))
            traces.append(_mean([(products * vectors).double().sum(1)])[:, 0])
    return _Columns(torch.stack(squares, 2), torch.stack(traces, 1), hv.num_sample_products)


def _mean(draws: list[Tensor]) -> Tensor:
    """Return means and standard errors, (2, quantities)."""
    each = torch.stack(draws)
    return torch.stack([each.mean(1), each.std(1) / each.shape[1] ** 0.5]).cpu()


def _places(hv: PerSampleHessian, names: Sequence[str]) -> Tensor:
    return torch.cat([torch.arange(hv.slices[name].start, hv.slices[name].stop) for name in names]).to(hv.device)
