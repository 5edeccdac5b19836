"""The Hessian by groups of parameters: which layers bend the loss, by how much, and how much of it is functional."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._checks import at_least, one_of
from stillscape._errors import InputError
from stillscape.curvature.groups import GROUPINGS, group_names
from stillscape.curvature.lanczos import top_eigenvalues
from stillscape.curvature.leave_one_out import LEAST_VECTORS, Draws, leave_one_out
from stillscape.curvature.per_sample import PerSampleHessian

PARTS = ("full", "outer", "functional")
PLAIN = (
    "group", "size", "spectral", "spectral_residual", "converged", "trace", "trace_stderr", "norm_share",
    "norm_share_stderr",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """The diagonal block of one group.

    Attributes:
        group: its name.
        names: its parameters.
        size: how many numbers they hold.
        spectral: spectral norm of the block.
        spectral_residual: norm of H v - value v; an eigenvalue lies within this of the one found.
        converged: whether that is within the tolerance.
        trace: of the block, and its standard error.
        trace_stderr: see there.
        norm_share: squared Frobenius norm of the block over that of the whole matrix, of the first part; 0 where the
            whole is zero.
        norm_share_stderr: its standard error.
        frobenius: Frobenius norm of each part that was asked for.
        frobenius_stderr: their standard errors.
        share: Frobenius norm of each part over that of the first; 0 where that is zero.
        share_stderr: their standard errors. All parts are measured by the same random vectors, so that what these get
            wrong together cancels.
    """

    group: str
    names: tuple[str, ...]
    size: int
    spectral: float
    spectral_residual: float
    converged: bool
    trace: float
    trace_stderr: float
    norm_share: float
    norm_share_stderr: float
    frobenius: dict[str, float]
    frobenius_stderr: dict[str, float]
    share: dict[str, float]
    share_stderr: dict[str, float]


@dataclass(frozen=True)
class BlockTable:
    """Norms of the mean Hessian, block by block.

    Attributes:
        blocks: of each group, in the order of its first parameter.
        coupling: Frobenius norms of the blocks between groups, (groups, groups), of the first part; symmetric up to
            its errors.
        coupling_stderr: standard errors.
        between: share of the squared Frobenius norm that lies outside of all blocks, of the first part.
        between_stderr: its standard error.
        num_sample_products: products of one sample with one vector that were spent.
    """

    blocks: tuple[Block, ...]
    coupling: Float[Tensor, "g g"]
    coupling_stderr: Float[Tensor, "g g"]
    between: float
    between_stderr: float
    num_sample_products: int

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each group, of plain numbers: norms, trace, and each part's share; with errors."""
        rows = []
        for block in self.blocks:
            row = {name: getattr(block, name) for name in PLAIN}
            for part in block.frobenius:
                row |= {f"share_{part}": block.share[part], f"share_{part}_stderr": block.share_stderr[part]}
            first = next(iter(block.frobenius))
            rows.append(row | {"frobenius": block.frobenius[first], "frobenius_stderr": block.frobenius_stderr[first]})
        return rows


def block_table(
    hv: PerSampleHessian,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    *,
    by: str = "kind",
    parts: Sequence[str] = PARTS,
    num_vectors: int = 8,
    tol: float = 1e-2,
    max_steps: int = 50,
    seed: int = 0,
) -> BlockTable:
    r"""Return spectral norm, trace and Frobenius norms of the mean Hessian's blocks, by group of parameters.

    Random vectors x that live on one group b give :math:`E\|(Hx)_a\|^2 = \|H_{ab}\|_F^2` for every group a at once, and
    :math:`E\,x^\top H x = \mathrm{tr} H_{bb}`; as in `trace`, what products with their images tell is known exactly and
    only the rest is estimated. Spectral norms are Lanczos's on the block alone.

    Args:
        hv: the operator; its samples, parameters and model.
        groups: patterns of names by group; each parameter goes to the first group that fits, the others to "other".
        by: how to group where `groups` is not given: "kind" (query, key, value, feed-forward, ...), "layer" or
            "parameter".
        parts: whose Frobenius norms are wanted; the first is also that of the trace and of the blocks between groups.
        num_vectors: on each group, at least 4.
        tol: of the spectral norms, relative residual.
        max_steps: of Lanczos on each block.
        seed: of all random vectors.

    Raises:
        InputError: if a part or grouping is unknown, a pattern fits no parameter, or `num_vectors` is below 4.

    Cost: for each group 2 x num_vectors products of each part (as many as the group has numbers, and exact answers,
        where that is less), and at most max_steps more on the block alone; memory 4 x num_vectors vectors.

    Example:
        l = (w x + b)^2 at x = 2 has the Hessian [[8, 4], [4, 2]].

        >>> model = torch.nn.Linear(1, 1)
        >>> hv = PerSampleHessian(model, lambda z, y: (z ** 2).sum(), torch.tensor([[2.0]]), None)
        >>> table = block_table(hv, by="parameter", parts=["full"])
        >>> [(row["group"], round(row["spectral"], 3)) for row in table.rows()]
        [('weight', 8.0), ('bias', 2.0)]
    """
    at_least("num_vectors", num_vectors, LEAST_VECTORS)
    for part in parts:
        one_of("parts", part, PARTS)
    if not parts:
        raise InputError("parts is empty; name at least one of full, outer, functional.")
    members = group_names(list(hv.slices), groups, one_of("by", by, GROUPINGS))
    places = {group: _places(hv, names) for group, names in members.items()}
    columns = {part: _columns(hv.with_part(part), places, num_vectors, seed) for part in parts}
    first = columns[parts[0]]
    norm_shares, between = first.shares()
    spent = sum(column.spent for column in columns.values())
    blocks = []
    for number, (group, names) in enumerate(members.items()):
        alone = hv.with_part(parts[0]).restricted(names)
        top = top_eigenvalues(alone, 1, tol, max_steps, seed)
        spent += top.num_sample_products
        norms = {part: column.squares[number][number].root() for part, column in columns.items()}
        below = first.squares[number][number]
        shares = {part: column.squares[number][number].over(below).root() for part, column in columns.items()}
        blocks.append(
            Block(
                group=group,
                names=tuple(names),
                size=alone.num_parameters,
                spectral=float(top.values[0].abs()),
                spectral_residual=float(top.residuals[0]),
                converged=top.converged,
                trace=first.traces[number].mean(),
                trace_stderr=first.traces[number].stderr(),
                norm_share=norm_shares[number][0],
                norm_share_stderr=norm_shares[number][1],
                frobenius={part: norm for part, (norm, _) in norms.items()},
                frobenius_stderr={part: error for part, (_, error) in norms.items()},
                share={part: share for part, (share, _) in shares.items()},
                share_stderr={part: error for part, (_, error) in shares.items()},
            )
        )
    coupling = torch.tensor([[draws.root() for draws in row] for row in first.squares], dtype=torch.float64)
    return BlockTable(tuple(blocks), coupling[..., 0], coupling[..., 1], *between, spent)


@dataclass(frozen=True)
class _Columns:
    """Squared Frobenius norms of all blocks, rows first, and traces of those on the diagonal."""

    squares: list[list[Draws]]
    traces: list[Draws]
    spent: int

    def shares(self) -> tuple[list[tuple[float, float]], tuple[float, float]]:
        """Return each diagonal block's share of the squared norm, and what lies between groups, with standard errors.

        To first order (the delta method): vectors on one group make all blocks of a column, and so err together;
        columns err independently.
        """
        columns = [reduce(Draws.plus, column) for column in zip(*self.squares, strict=True)]
        whole = sum(column.mean() for column in columns)
        diagonal = [row[number] for number, row in enumerate(self.squares)]
        if whole == 0:
            return [(0.0, 0.0)] * len(diagonal), (0.0, 0.0)

        def error(share: float, inside: Sequence[bool]) -> float:
            moved = [
                own.plus(column, -share) if is_inside else Draws.exact(0.0).plus(column, -share)
                for own, column, is_inside in zip(diagonal, columns, inside, strict=True)
            ]
            return float(sum(draws.stderr() ** 2 for draws in moved) ** 0.5) / whole

        found = []
        for number, block in enumerate(diagonal):
            share = block.mean() / whole
            found.append((share, error(share, [other == number for other in range(len(diagonal))])))
        within = sum(share for share, _ in found)
        return found, (1 - within, error(within, [True] * len(diagonal)))


def _columns(hv: PerSampleHessian, places: dict[str, Tensor], num_vectors: int, seed: int) -> _Columns:
    """Measure one part by random vectors on each group in turn; columns of blocks are groups that vectors live on."""
    generator = torch.Generator().manual_seed(seed)
    columns, traces = [], []
    with hv.linearized():
        for place in places.values():
            known = leave_one_out(hv, num_vectors, generator, place)
            columns.append([known.square(other) for other in places.values()])
            traces.append(known.trace())
    return _Columns([list(row) for row in zip(*columns, strict=True)], traces, hv.num_sample_products)


def _places(hv: PerSampleHessian, names: Sequence[str]) -> Tensor:
    return torch.cat([torch.arange(hv.slices[name].start, hv.slices[name].stop) for name in names]).to(hv.device)
