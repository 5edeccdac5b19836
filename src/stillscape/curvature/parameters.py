"""Which parameters the curvature is taken in, and how they lie in one flat vector."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stillscape._errors import InputError

DTYPES = (torch.float32, torch.float64)


class Parameters:
    """Some parameters of a module, and how they lie in one vector.

    Attributes:
        names: of the chosen ones.
        slices: where each lies in the flat vector.
        size: P, how many numbers they hold.
    """

    def __init__(self, model: nn.Module, chosen: Sequence[str]) -> None:
        self._model = model
        self.names = tuple(chosen)
        ends = list(accumulate(p.numel() for p in self._live()))
        self.slices = {name: slice(start, end) for name, start, end in zip(chosen, [0, *ends[:-1]], ends, strict=True)}
        self.shapes = [p.shape for p in self._live()]
        self.size = ends[-1]
        self.dtype, self.device = self._live()[0].dtype, self._live()[0].device

    def values(self) -> list[Tensor]:
        """Return the present values, which follow the module when it is trained further."""
        return [p.detach() for p in self._live()]

    def others(self) -> dict[str, Tensor]:
        """Return all other parameters of the module, constant."""
        return {name: p.detach() for name, p in self._model.named_parameters() if name not in self.slices}

    def split(self, vectors: Float[Tensor, "*batch P"]) -> list[Tensor]:
        """Return the pieces of flat vectors, in the shapes of the parameters."""
        pieces = zip(self.slices.values(), self.shapes, strict=True)
        return [vectors[..., place].reshape(*vectors.shape[:-1], *shape) for place, shape in pieces]

    def join(self, pieces: Sequence[Tensor], out: Float[Tensor, "*batch P"]) -> None:
        """Add the pieces, each of shape ``(*batch, *shape)``, to flat vectors."""
        flat = [piece.reshape(*out.shape[:-1], -1) for piece in pieces]  # all of it first: from here on nothing fails
        for piece, place in zip(flat, self.slices.values(), strict=True):
            out[..., place] += piece

    def _live(self) -> list[nn.Parameter]:
        named = dict(self._model.named_parameters())
        return [named[name] for name in self.names]


def choose(model: nn.Module, params: str | Sequence[str]) -> Parameters:
    """Return the parameters that `params` names: ``"trainable"``, names, or patterns such as ``"*.attention.*"``.

    Raises:
        InputError: if a name or pattern fits nothing, nothing is chosen, or the chosen ones aren't of one dtype
            (float32 or float64) and device.
    """
    named = dict(model.named_parameters())
    if isinstance(params, str) and params == "trainable":
        names = [name for name, p in named.items() if p.requires_grad]
        if not names:
            raise InputError(
                "params is 'trainable', but no parameter of the model has requires_grad; set it, or give names."
            )
    else:
        patterns = [params] if isinstance(params, str) else list(params)
        for pattern in patterns:
            if not any(_fits(name, pattern) for name in named):
                raise InputError(
                    f"params names {pattern!r}, which fits no parameter of the model; it has {_some(list(named))}. "
                    "Give names, or patterns such as '*.attention.*'."
                )
        found = [name for pattern in patterns for name in named if _fits(name, pattern)]
        names = list(dict.fromkeys(found))  # each once, in the order asked for
        if not names:
            raise InputError("params is empty; give 'trainable', names, or patterns such as '*.attention.*'.")
    for what, kinds in (("dtypes", {named[n].dtype for n in names}), ("devices", {named[n].device for n in names})):
        if len(kinds) > 1:
            raise InputError(f"params has several {what} ({', '.join(sorted(map(str, kinds)))}); they must be of one.")
    if named[names[0]].dtype not in DTYPES:
        raise InputError(
            f"params is of {named[names[0]].dtype}; second derivatives need float32 or float64: call model.float()."
        )
    return Parameters(model, names)


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
