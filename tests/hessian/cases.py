"""Random layers with everything that both sides need: the closed form by its public door, and the oracle.

    case = random_case(seed, "transformer_block")
    h = case.closed_form()
    for part, want in case.hessians.items():
        assert relative_error(h.dense(part), want, case.hessians["full"]) < TOLERANCE

Whatever is not asked for by name is drawn; losses and attentions take turns, so that 30 seeds meet every pair of them.
Errors of parts are on the scale of the whole: under softmax, for one, every derivative in b_K is zero but for rounding.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillscape.hessian import reference
from tests.hessian import oracles

LAYERS = ("self_attention", "transformer_block", "transformer_chain")
LOSSES = ("mse", "mean", "cls", "token", "output")
ENTROPIES = ("mean", "cls", "token")
MASKS = ("none", "causal", "padding", "shared", "per_sample")
ACTIVATIONS = ("gelu", "relu", "linear")
NORMS = ("post", "pre")
BIASES = reference.BIASES


class RowNormalized:
    """a_j = f(t_j) / sum_k f(t_k) over what is allowed, f(t) = t^2 + 1: its Jacobian is not symmetric."""

    def value(self, scores, mask):
        weights, _, _, total = self._parts(scores, mask)
        return weights / total

    def jacobian(self, scores, mask):
        # da_j/dt_k = d_jk f'_j / s - f_j f'_k / s^2
        f, slope, _, s = self._parts(scores, mask)
        return torch.diag_embed(slope / s) - (f / s)[..., :, None] * (slope / s)[..., None, :]

    def hessian(self, scores, mask):
        # d_jkl f''_j / s - (d_jk f'_j f'_l + d_jl f'_j f'_k + d_kl f_j f''_k) / s^2 + 2 f_j f'_k f'_l / s^3
        f, slope, bend, s = self._parts(scores, mask)
        f, slope, bend = f / s, slope / s, bend / s
        own, last = torch.diag_embed(slope), slope[..., None, None, :]
        mixed = own[..., None] * last + own[..., :, None, :] * slope[..., None, :, None]
        return (
            torch.diag_embed(torch.diag_embed(bend))
            - mixed
            - f[..., :, None, None] * torch.diag_embed(bend)[..., None, :, :]
            + 2 * f[..., :, None, None] * slope[..., None, :, None] * last
        )

    def _parts(self, scores, mask):
        allowed = torch.ones_like(scores) if mask is None else mask.to(scores.dtype)
        f = (scores.square() + 1) * allowed
        total = f.sum(-1, keepdim=True)
        return f, 2 * scores * allowed, 2 * allowed, torch.where(total > 0, total, torch.ones_like(total))


class Sigmoid:
    """a_j = 1 / (1 + exp(-t_j)) where allowed, each entry for itself."""

    def value(self, scores, mask):
        return _where(scores.sigmoid(), mask)

    def jacobian(self, scores, mask):
        p = scores.sigmoid()
        return torch.diag_embed(_where(p * (1 - p), mask))

    def hessian(self, scores, mask):
        p = scores.sigmoid()
        return torch.diag_embed(torch.diag_embed(_where(p * (1 - p) * (1 - 2 * p), mask)))


#: Softmax comes up every other time; six in turn, coprime to the five losses.
ATTENTIONS: dict[str, Any] = {
    "softmax": "softmax",
    "row_normalized": RowNormalized(),
    "linear": "linear",
    "sigmoid": Sigmoid(),
}
_TURNS = ("softmax", "row_normalized", "softmax", "linear", "softmax", "sigmoid")


@dataclass(frozen=True, eq=False)
class Case:
    """A layer, block or chain at a point, with a loss, and the parameters in which it is differentiated.

    Attributes:
        layer: name of the public function.
        X: (n, L, d).
        blocks: parameters of each block; one dict for a single layer or block.
        loss_name: one of `LOSSES`.
        loss_data: what that loss is made of.
        options: attention, mask, heads; for blocks activation, norm, eps.
        wrt: number of the block, or "head".
        head: the head's W_h and b_h are parameters too.
        nested: the closed form gets the attention's biases as a dict of their own.
        drawn: names of the options, for `pytest` to show.
    """

    layer: str
    X: Tensor
    blocks: tuple[dict[str, Tensor], ...]
    loss_name: str
    loss_data: dict[str, Tensor | None]
    options: dict[str, Any]
    wrt: int | str = 0
    head: bool = False
    nested: bool = False
    drawn: dict[str, str] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Tensor]:
        """What is differentiated, in the order of the Hessian's rows."""
        own = {} if self.wrt == "head" else self.blocks[self.wrt]
        return own | ({key: self.loss_data[key] for key in ("W_h", "b_h")} if self.head else {})

    def output(self, params: dict[str, Tensor]) -> Tensor:
        """Return the reference's output (n, L, m) at `params`; with the head among them, the logits of each token."""
        blocks = list(self.blocks)
        if self.wrt != "head":
            blocks[self.wrt] = {name: value for name, value in params.items() if name not in ("W_h", "b_h")}
        if self.layer == "self_attention":
            weights = {name: value for name, value in blocks[0].items() if name not in BIASES}
            biases = {name: value for name, value in blocks[0].items() if name in BIASES}
            F = reference.self_attention(self.X, **weights, biases=biases, **self.options)
        else:
            F = reference.transformer_chain(self.X, blocks, **self.options)
        return F @ params["W_h"] + params["b_h"] if self.head else F

    def loss_at_output(self, F: Tensor) -> Tensor:
        """Return the reference's losses (n,) at an output."""
        data = dict(self.loss_data)
        if self.loss_name == "mse":
            return reference.mse(F, **data)
        if self.loss_name == "output":
            return reference.quadratic(F, self.F, **data)
        if self.head:
            data["W_h"], data["b_h"] = torch.eye(F.shape[-1], dtype=F.dtype), None
        return reference.cross_entropy(F, **data, pool=self.loss_name)

    def losses(self, params: dict[str, Tensor]) -> Tensor:
        """Return the reference's losses (n,) at `params`."""
        return self.loss_at_output(self.output(params))

    @cached_property
    def F(self) -> Tensor:
        """The reference's output at the point."""
        return self.output(self.params)

    @cached_property
    def hessians(self) -> dict[str, Tensor]:
        """The reference's (n, P, P) by part: full, outer, functional."""
        outer, functional = reference.split(self.output, self.loss_at_output, self.params)
        return {"full": outer + functional, "outer": outer, "functional": functional}

    @cached_property
    def gradient(self) -> Tensor:
        """The reference's gradients (n, P)."""
        return oracles.gradients(self.losses, self.params, reference.flatten(self.params))

    def loss(self) -> Any:
        """Return the loss as the closed form takes it."""
        from stillscape import hessian

        if self.loss_name == "mse":
            return hessian.MSE(**self.loss_data)
        if self.loss_name == "output":
            return hessian.OutputLoss(**self.loss_data)
        return hessian.CrossEntropy(**self.loss_data, pool=self.loss_name)

    def closed_form(self, **changes: Any) -> Any:
        """Return the closed form's Hessian, by the public function; `changes` override its arguments."""
        from stillscape import hessian

        arguments = {"loss": self.loss(), **self.options, **changes}
        if self.layer == "self_attention":
            weights = {name: value for name, value in self.blocks[0].items() if name not in BIASES}
            biases = {name: value for name, value in self.blocks[0].items() if name in BIASES}
            return hessian.self_attention(**{"X": self.X, **weights, "biases": biases or None, **arguments})
        blocks = [_nested(block) if self.nested else block for block in self.blocks]
        if self.layer == "transformer_block":
            return hessian.transformer_block(**{"X": self.X, "params": blocks[0], "head": self.head, **arguments})
        wrt = {"wrt": self.wrt, "head": self.head and self.wrt != "head"}
        return hessian.transformer_chain(**{"X": self.X, "blocks": blocks, **wrt, **arguments})

    def to(self, dtype: torch.dtype) -> "Case":
        """Return the same case in another precision."""

        def converted(values: dict[str, Any]) -> dict[str, Any]:
            return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in values.items()}

        blocks = tuple(converted(block) for block in self.blocks)
        return replace(self, X=self.X.to(dtype), blocks=blocks, loss_data=converted(self.loss_data))

    def __repr__(self) -> str:
        sizes = f"X {tuple(self.X.shape)}, P {sum(value.numel() for value in self.params.values())}"
        return f"<{self.layer} {self.drawn} wrt={self.wrt} head={self.head}, {sizes}>"


def random_case(
    seed: int,
    layer: str = "self_attention",
    *,
    loss: str | None = None,
    attention: str | None = None,
    mask: str | None = None,
    activation: str | None = None,
    norm: str | None = None,
    wrt: int | str | None = None,
    head: bool | None = None,
    small: bool = False,
    **sizes: int,
) -> Case:
    """Return a case drawn from `seed`.

    Args:
        seed: everything follows from it.
        layer: one of `LAYERS`.
        loss: one of `LOSSES`; it and the next four by name, None: drawn.
        attention: a key of `ATTENTIONS`.
        mask: one of `MASKS`.
        activation: one of `ACTIVATIONS`.
        norm: one of `NORMS`.
        wrt: for a chain, the number of the block, or "head" (with a cross-entropy); None: drawn.
        head: differentiate the head too (with a cross-entropy after the last block); None: drawn.
        small: smaller sizes, for oracles that go row by row.
        **sizes: any of n, L, d, d_K, d_V, d_out, d_f, heads, classes, blocks.
    """
    # A stream for each purpose: naming one option leaves the rest of the case as it was.
    streams = np.random.default_rng((seed, LAYERS.index(layer))).spawn(5)
    choices, measures, masking, ending = streams[:4]
    turns = ENTROPIES if head or wrt == "head" else LOSSES
    drawn = {"mask": str(choices.choice(MASKS)), "activation": str(choices.choice(ACTIVATIONS))}
    drawn |= {"norm": str(choices.choice(NORMS)), "attention": _TURNS[seed % len(_TURNS)]}
    drawn |= {"loss": turns[seed % len(turns)]}
    named = {"mask": mask, "activation": activation, "norm": norm, "attention": attention, "loss": loss}
    drawn |= {option: name for option, name in named.items() if name is not None}
    at = _sizes(measures, layer, small, sizes)
    draw = _Draw(streams[4])
    X = draw.scale() * draw.normal(at["n"], at["L"], at["d"])
    blocks = tuple(_block(draw, layer, at) for _ in range(at["blocks"]))
    options = {"attention": ATTENTIONS[drawn["attention"]], "mask": _mask(masking, drawn["mask"], at["n"], at["L"])}
    options["heads"] = at["heads"]
    if layer != "self_attention":
        # Two features are +-1 after LayerNorm but for eps: with a small one nothing is left but rounding.
        eps = 1.0 if at["d"] == 2 else float(choices.choice([1e-5, 1e-3, 0.1]))
        options |= {"activation": drawn["activation"], "norm": drawn["norm"], "eps": eps}
    wrt, head = _differentiated(choices, layer, drawn["loss"], at["blocks"], wrt, head)
    case = Case(layer, X, blocks, drawn["loss"], {}, options, wrt, head, bool(choices.random() < 0.5), drawn)
    width = at["d"] if layer != "self_attention" else blocks[0]["W_O" if "W_O" in blocks[0] else "W_V"].shape[1]
    data = _loss_data(_Draw(ending), drawn["loss"], (at["n"], at["L"], width), at["classes"])
    return replace(case, loss_data=data)


def _differentiated(
    rng: np.random.Generator, layer: str, loss: str, blocks: int, wrt: int | str | None, head: bool | None
) -> tuple[int | str, bool]:
    """Draw what is not said: a block of the chain or the head, and whether the head comes with the last block."""
    chance, block = rng.random(2), int(rng.integers(blocks))
    possible = layer != "self_attention" and loss in ENTROPIES
    if wrt is None and layer == "transformer_chain" and possible and head is None and chance[0] < 0.2:
        wrt = "head"
    if wrt is None:
        wrt = blocks - 1 if head else block
    if head is None:
        head = wrt == "head" or (possible and wrt == blocks - 1 and bool(chance[1] < 0.4))
    return wrt, head or wrt == "head"


class _Draw:
    """Weights of mixed scales: within a factor of ten, so that attention is flat here and peaked there."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def scale(self) -> float:
        return float(10 ** self.rng.uniform(-0.6, 0.4))

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.normal(size=shape))

    def matrix(self, rows: int, columns: int) -> Tensor:
        return self.normal(rows, columns) * (self.scale() / rows**0.5)

    def vector(self, size: int, center: float = 0.0) -> Tensor:
        return center + self.normal(size) * (0.5 * self.scale())


def _sizes(rng: np.random.Generator, layer: str, small: bool, given: dict[str, int]) -> dict[str, int]:
    def between(least: int, most: int) -> int:
        return int(rng.integers(least, (least + 1 if small else most) + 1))

    block = layer != "self_attention"
    sizes = {"n": between(1, 3), "L": between(2, 6), "d": between(2, 5), "d_K": between(1, 4), "d_V": between(1, 4)}
    sizes |= {"d_out": between(1, 5), "d_f": between(2, 6), "classes": between(2, 4), "heads": between(1, 3)}
    sizes |= {"blocks": between(2, 3) if layer == "transformer_chain" else 1} | given
    # With heads that divide d, blocks may come with and without W_O.
    return sizes | ({"heads": _divisor(rng, sizes["d"])} if block and "heads" not in given else {})


def _divisor(rng: np.random.Generator, d: int) -> int:
    return int(rng.choice([h for h in (1, 2, 3) if d % h == 0]))


def _block(draw: _Draw, layer: str, at: dict[str, int]) -> dict[str, Tensor]:
    rng, d, heads = draw.rng, at["d"], at["heads"]
    block = layer != "self_attention"
    projected = bool(rng.random() < 0.5) or (block and d % heads != 0)
    d_V = d // heads if block and not projected else at["d_V"]
    out = d if block else at["d_out"]
    params = {"W_Q": draw.matrix(d, heads * at["d_K"]), "W_K": draw.matrix(d, heads * at["d_K"])}
    params["W_V"] = draw.matrix(d, heads * d_V)
    if projected:
        params["W_O"] = draw.matrix(heads * d_V, out)
    widths = {"b_Q": heads * at["d_K"], "b_K": heads * at["d_K"], "b_V": heads * d_V, "b_O": out if projected else 0}
    # All biases, none, or some of them.
    chance = rng.choice([1.0, 0.0, 0.5])
    params |= {name: draw.vector(width) for name, width in widths.items() if width and rng.random() < chance}
    if not block:
        return params
    params |= {"W_1": draw.matrix(d, at["d_f"]), "b_1": draw.vector(at["d_f"])}
    params |= {"W_2": draw.matrix(at["d_f"], d), "b_2": draw.vector(d)}
    for which in (1, 2):
        params |= {f"gamma_{which}": draw.vector(d, center=1.0), f"beta_{which}": draw.vector(d)}
    return params


def _mask(rng: np.random.Generator, name: str, n: int, tokens: int) -> Tensor | None:
    if name == "none":
        return None
    if name == "causal":
        return torch.ones(tokens, tokens, dtype=torch.bool).tril()
    if name == "padding":
        lengths = torch.from_numpy(rng.integers(1, tokens + 1, size=n))
        return (torch.arange(tokens) < lengths[:, None])[:, None, :].expand(n, tokens, tokens).clone()
    mask = torch.from_numpy(rng.random((tokens, tokens) if name == "shared" else (n, tokens, tokens)) < 0.6)
    if name == "per_sample":
        mask[0, -1] = False  # a token that attends to nothing
    return mask


def _loss_data(draw: _Draw, name: str, shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    n, tokens, features = shape
    if name == "mse":
        return {"target": draw.normal(*shape)}
    if name == "output":
        B = draw.normal(n, tokens * features, tokens * features)
        return {"gradient": draw.normal(*shape), "hessian": B + B.mT}  # indefinite
    labels = torch.from_numpy(draw.rng.integers(classes, size=(n, tokens) if name == "token" else n))
    return {"labels": labels, "W_h": 2 * draw.matrix(features, classes), "b_h": draw.vector(classes)}


def _nested(block: dict[str, Tensor]) -> dict[str, Any]:
    outer = {name: value for name, value in block.items() if name not in BIASES}
    return outer | {"biases": {name: value for name, value in block.items() if name in BIASES}}


def _where(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values.masked_fill(~mask, 0.0)
