"""Planes through parameter space on which a loss surface is looked at, and where other weights lie in them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillscape._errors import InputError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plane:
    """The plane w = center + a first + b second.

    Args:
        center: weights by name.
        first: a direction, named and shaped as the weights.
        second: another one, not along the first.

    Raises:
        InputError: names or shapes differ, or the directions do not span a plane.

    Example:
        >>> plane = Plane({"w": torch.zeros(3)}, {"w": torch.tensor([2.0, 0, 0])}, {"w": torch.tensor([1.0, 1, 0])})
        >>> plane.at(1.0, 2.0)["w"].tolist()
        [4.0, 2.0, 0.0]
        >>> plane.coordinates({"w": torch.tensor([4.0, 2.0, 5.0])})
        (1.0, 2.0, 5.0)
    """

    center: State
    first: State
    second: State

    def __post_init__(self) -> None:
        """Refuse what spans no plane."""
        for name, direction in (("first", self.first), ("second", self.second)):
            _same_shapes(name, direction, self.center)
        gram = self._gram()
        if not torch.isfinite(gram).all() or torch.linalg.det(gram) <= 1e-12 * gram[0, 0] * gram[1, 1]:
            raise InputError("first and second span no plane: one is zero, not finite, or along the other.")

    def at(self, a: float, b: float) -> dict[str, Tensor]:
        """Return the weights at coordinates a and b."""
        return {name: w + a * self.first[name] + b * self.second[name] for name, w in self.center.items()}

    def coordinates(self, state: State) -> tuple[float, float, float]:
        """Return coordinates of the point of the plane that is nearest to `state`, and its distance from `state`.

        Raises:
            InputError: names or shapes differ from the plane's.
        """
        _same_shapes("state", state, self.center)
        away = {name: state[name].double() - w.double() for name, w in self.center.items()}
        right = torch.stack([_dot(away, self.first), _dot(away, self.second)])
        a, b = torch.linalg.solve(self._gram(), right).tolist()
        rest = {n: d - a * self.first[n].double() - b * self.second[n].double() for n, d in away.items()}
        return a, b, float(_dot(rest, rest).sqrt())

    def _gram(self) -> Float[Tensor, "2 2"]:
        pair = (self.first, self.second)
        return torch.stack([torch.stack([_dot(one, other) for other in pair]) for one in pair])


def unit(direction: State) -> dict[str, Tensor]:
    """Return the direction at length 1.

    Raises:
        InputError: it is zero or not finite.

    >>> unit({"w": torch.tensor([3.0, 4.0])})["w"].tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    length = float(_dot(direction, direction).sqrt())
    if not 0 < length < float("inf"):
        raise InputError(f"direction has length {length}; it must be above zero and finite.")
    return {name: (d.double() / length).to(d.dtype) for name, d in direction.items()}


def across(direction: State, other: State) -> dict[str, Tensor]:
    """Return `direction` without its part along `other`, at length 1.

    Raises:
        InputError: nothing is left of it.

    >>> across({"w": torch.tensor([5.0, 2.0])}, {"w": torch.tensor([1.0, 0.0])})["w"].tolist()
    [0.0, 1.0]
    """
    along = unit(other)
    share = _dot(direction, along)
    rest = {name: d - (share * along[name].double()).to(d.dtype) for name, d in direction.items()}
    return unit(rest)


def filter_normalized(direction: State, weights: State) -> dict[str, Tensor]:
    r"""Return `direction` with each filter brought to the length of the weights' own.

    .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\lVert d_{i,j} \rVert} \lVert w_{i,j} \rVert

    for filter j of layer i, which is one row of a weight matrix, or one output channel of a kernel; parameters of one
    axis (biases, norms) do not move. (Li et al. 2018, "Visualizing the loss landscape of neural nets", sec. 4.) Step 1
    along it then moves every filter by its own length, so that surfaces of differently scaled networks compare.

    Args:
        direction: by name, commonly Gaussian.
        weights: w, named and shaped alike.

    Raises:
        InputError: names or shapes differ.

    >>> found = filter_normalized({"w": torch.tensor([[0.0, 2.0]]), "b": torch.ones(1)},
    ...                           {"w": torch.tensor([[3.0, 4.0]]), "b": torch.ones(1)})
    >>> found["w"].tolist(), found["b"].tolist()
    ([[0.0, 5.0]], [0.0])
    """
    _same_shapes("direction", direction, weights)
    found = {}
    for name, d in direction.items():
        if d.ndim < 2:
            found[name] = torch.zeros_like(d)
            continue
        lengths, own = (t.flatten(1).norm(dim=1) for t in (d, weights[name]))
        scale = torch.where(lengths > 0, own / lengths, torch.zeros_like(own))
        found[name] = d * scale.reshape(-1, *[1] * (d.ndim - 1))
    return found


def _dot(one: State, other: State) -> Tensor:
    return torch.stack([(one[name].double() * other[name].double()).sum() for name in one]).sum()


def _same_shapes(name: str, given: State, own: State) -> None:
    shapes, wanted = ({n: tuple(t.shape) for n, t in state.items()} for state in (given, own))
    if shapes != wanted:
        odd = next(n for n in {**shapes, **wanted} if shapes.get(n) != wanted.get(n))
        raise InputError(
            f"{name}[{odd!r}] has shape {shapes.get(odd)}; the weights' is {wanted.get(odd)}. They must be alike."
        )
