"""The exact Hessian of a transformer block and of one block in a chain: Theorem 2, which the drafts left open."""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from stillscape._checks import one_of, positive
from stillscape._errors import InputError
from stillscape.hessian import _arguments
from stillscape.hessian.exact import ExactHessian, Network
from stillscape.hessian.layers import Chain, Elementwise, Gather, Layer, Linear, Residual
from stillscape.hessian.losses import CrossEntropy, Loss
from stillscape.hessian.normalization import LayerNorm
from stillscape.hessian.pointwise import pointwise
from stillscape.hessian.self_attention import BIASES, WEIGHTS, attention_layers, attention_parameters, rows_of

FEED_FORWARD = ("W_1", "b_1", "W_2", "b_2")
NORMS = ("gamma_1", "beta_1", "gamma_2", "beta_2")
PARAMETERS = (*WEIGHTS, *FEED_FORWARD, *NORMS)
HEAD = ("W_h", "b_h")
NORM_PLACES = ("post", "pre")


def transformer_block(
    X: Float[Tensor, "n L d"],
    params: Mapping[str, Tensor],
    *,
    loss: Loss,
    activation: str = "gelu",
    norm: str = "post",
    attention: object = "softmax",
    mask: Bool[Tensor, "*n L L"] | None = None,
    heads: int = 1,
    eps: float = 1e-5,
    head: bool = False,
) -> ExactHessian:
    r"""Return the exact Hessian of a transformer block, in all its parameters, of every sample.

        post:  Y = LN_1(X + SA(X)),   Z = LN_2(Y + FFN(Y))           FFN(Y) = sigma(Y W_1 + b_1) W_2 + b_2
        pre:   Y = X + SA(LN_1(X)),   Z = Y + FFN(LN_2(Y))

    For every pair of parameters theta, theta' with left vectors l_i and right matrices R_i (docs/theory, Theorem 2')

        H_o = sum_ij (l_i l_j'') (x) (R_i B_ij R_j'')
        H_f = sum_i (l_i l_i'') (x) (sum over layers of R_i N_i R_i'') + terms of left vectors that move

    with N the second derivative of LayerNorm, activation or softmax against the adjoint there.

    Args:
        X: (n, L, d) tokens of n samples.
        params: W_Q, W_K, W_V, W_1 (d, d_f), b_1, W_2 (d_f, d), b_2, gamma_1, beta_1, gamma_2, beta_2; optionally W_O,
            b_Q, b_K, b_V, b_O, these four also as a dict named "biases".
        loss: on the block's output Z.
        activation: "relu" (its kinks aside), "gelu" (exact, by erf) or "linear".
        norm: "post" as in the paper, or "pre".
        attention: as in `self_attention`.
        mask: as in `self_attention`.
        heads: number of heads.
        eps: of both LayerNorms.
        head: with a `CrossEntropy`, take its W_h and b_h as parameters too, last in order.

    Returns:
        the Hessian; parameters in the order of `params` above, with W_O and the attention's biases after W_V.

    Raises:
        InputError: a ValueError naming the argument, as in `self_attention`; `head` with another loss.

    Example:
        A single token of a single feature: LayerNorm makes it beta_2, so of 11 parameters only beta_2 curves.

        >>> import torch
        >>> from stillscape.hessian import MSE, transformer_block
        >>> names = "W_Q W_K W_V W_1 b_1 W_2 b_2 gamma_1 beta_1 gamma_2 beta_2".split()
        >>> params = {name: torch.ones(1, 1) if name.startswith("W") else torch.ones(1) for name in names}
        >>> h = transformer_block(torch.ones(1, 1, 1), params, loss=MSE(torch.zeros(1, 1, 1)))
        >>> h.num_parameters, float(h.dense().abs().sum()), float(h.block("beta_2", "beta_2"))
        (11, 2.0, 2.0)
    """
    return transformer_chain(
        X,
        [params],
        wrt=0,
        loss=loss,
        activation=activation,
        norm=norm,
        attention=attention,
        mask=mask,
        heads=heads,
        eps=eps,
        head=head,
    )


def transformer_chain(
    X: Float[Tensor, "n L d"],
    blocks: Sequence[Mapping[str, Tensor]],
    *,
    wrt: int | str,
    loss: Loss,
    activation: str = "gelu",
    norm: str = "post",
    attention: object = "softmax",
    mask: Bool[Tensor, "*n L L"] | None = None,
    heads: int = 1,
    eps: float = 1e-5,
    head: bool = False,
    final_norm: tuple[Float[Tensor, " d"], Float[Tensor, " d"]] | None = None,
) -> ExactHessian:
    r"""Return the exact Hessian in the parameters of one block of a chain, all others fixed, or of its head.

    What follows block j is a loss on its output: its gradient is the pulled-back adjoint, and its Hessian
    J'BJ + (second derivative of the later blocks), taken column by column in closed form (docs/theory, section 5.6).
    The outer part stays what it is for the whole chain: J'BJ with B the Hessian of the loss at the chain's output.

    Args:
        X: (n, L, d) tokens that enter the first block.
        blocks: parameters of each block, as in `transformer_block`.
        wrt: number of the block, from 0; or "head": W_h and b_h of a `CrossEntropy`.
        loss: on the output of the last block.
        activation: as in `transformer_block`, the same in every block.
        norm: likewise.
        attention: likewise.
        mask: likewise.
        heads: likewise.
        eps: likewise.
        head: with the last block and a `CrossEntropy`, take its W_h and b_h as parameters too.
        final_norm: gamma and beta of a LayerNorm after the last block, as vision transformers have it; not a parameter.

    Returns:
        the Hessian of every sample.

    Raises:
        InputError: as in `transformer_block`; `wrt` is no block of the chain.

    Cost: as for one block, and for every block after it L d products of a vector with that block's Hessian.
    """
    X = _arguments.real_tensor("X", X, (None, None, None))
    _arguments.loss_on(loss, len(X))
    _arguments.flag("head", head)
    one_of("norm", norm, NORM_PLACES)
    positive("eps", eps, "It keeps LayerNorm away from 1/0.")
    pointwise(activation)
    checked = [_block_parameters(X, block, heads, number) for number, block in enumerate(_listed(blocks))]
    masked = _arguments.attention_mask(mask, X)
    j = _chosen(wrt, len(checked))
    with_head = head or wrt == "head"
    if with_head and not (isinstance(loss, CrossEntropy) and j in (len(checked) - 1, len(checked))):
        raise InputError(
            "head has parameters only in a CrossEntropy on the last block's output; "
            f"got {type(loss).__name__} and wrt = {wrt!r}."
        )
    normalize = _final_layers(X, final_norm, eps)
    shapes = {name: tuple(value.shape) for name, value in (checked[j] if j < len(checked) else {}).items()}
    if with_head:
        assert isinstance(loss, CrossEntropy)
        shapes |= {"W_h": tuple(loss.W_h.shape), "b_h": tuple(loss.b_h.shape)}

    def network(rows: slice) -> Network:
        def layers(number: int, trainable: bool) -> list[Layer]:
            attend = attention_layers(checked[number], heads, attention, rows_of(masked, rows), trainable)
            return _block_layers(checked[number], attend, activation, norm, eps, trainable)

        before = Chain([layer for number in range(j) for layer in layers(number, False)])
        own = layers(j, True) if j < len(checked) else []
        after = [layer for number in range(j + 1, len(checked)) for layer in layers(number, False)]
        (after if after else own).extend(normalize())
        part = loss.take(rows)
        if with_head:
            assert isinstance(part, CrossEntropy)
            own.append(Linear(part.W_h, part.b_h, HEAD))
            part = part.on_logits()
        return Network(before.forward(X[rows]), Chain(own), Chain(after), part)

    return ExactHessian(network, shapes, len(X))


def _final_layers(X: Tensor, given: tuple[Tensor, Tensor] | None, eps: float) -> Callable[[], list[Layer]]:
    if given is None:
        return list
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"final_norm is a {type(given).__name__}; it must be a pair (gamma, beta), or None.")
    gamma, beta = (_arguments.real_tensor("final_norm", value, (X.shape[2],), X) for value in given)
    return lambda: [LayerNorm(gamma, beta, eps)]


def _block_layers(
    params: Mapping[str, Tensor], attend: list[Layer], activation: str, norm: str, eps: float, trainable: bool
) -> list[Layer]:
    def names(first: str, second: str) -> tuple[str, str] | None:
        return (first, second) if trainable else None

    normalize = [
        LayerNorm(
            params[f"gamma_{i}"],
            params[f"beta_{i}"],
            eps,
            names(f"gamma_{i}", f"beta_{i}"),
            one_family=i == 1 and norm == "pre",
        )
        for i in (1, 2)
    ]
    feed_forward: list[Layer] = [
        Linear(params["W_1"], params["b_1"], names("W_1", "b_1")),
        Elementwise(pointwise(activation)),
        Linear(params["W_2"], params["b_2"], names("W_2", "b_2")),
    ]
    gather = [Gather()] if trainable else []
    if norm == "post":
        return [Residual(attend), normalize[0], *gather, Residual(feed_forward), *gather, normalize[1]]
    return [Residual([normalize[0], *attend]), *gather, Residual([normalize[1], *feed_forward]), *gather]


def _block_parameters(X: Tensor, given: Mapping[str, Tensor], heads: int, number: int) -> dict[str, Tensor]:
    where = f"params of block {number}"
    flat = dict(given) if isinstance(given, Mapping) else given
    if isinstance(flat, dict) and isinstance(flat.get("biases"), Mapping):
        flat |= flat.pop("biases")
    _arguments.known_keys(where, flat, PARAMETERS, ("W_O", *BIASES))
    attend = {name: value for name, value in flat.items() if name not in (*FEED_FORWARD, *NORMS)}
    params = attention_parameters(X, attend, heads, where)
    d = X.shape[2]
    returned = params["W_O" if "W_O" in params else "W_V"]
    if returned.shape[1] != d:
        name = "W_O" if "W_O" in params else "W_V"
        raise InputError(f"{name} has {returned.shape[1]} columns; X has {d} features, and the residual adds them.")
    W_1 = _arguments.real_tensor("W_1", flat["W_1"], (d, None), X)
    width = W_1.shape[1]
    shapes = {"b_1": (width,), "W_2": (width, d), "b_2": (d,), **dict.fromkeys(NORMS, (d,))}
    rest = {name: _arguments.real_tensor(name, flat[name], shape, X) for name, shape in shapes.items()}
    return params | {"W_1": W_1} | rest


def _listed(blocks: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
    if isinstance(blocks, Mapping | str) or not isinstance(blocks, Sequence) or not blocks:
        raise InputError(f"blocks is a {type(blocks).__name__}; it must be a list of at least one dict of parameters.")
    return blocks


def _chosen(wrt: int | str, count: int) -> int:
    if wrt == "head":
        return count
    if isinstance(wrt, bool) or not isinstance(wrt, int) or not 0 <= wrt < count:
        raise InputError(f'wrt is {wrt!r}; it must be the number of a block, 0..{count - 1}, or "head".')
    return wrt
