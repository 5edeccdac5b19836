"""Statement #17, the lemmas under it, and Theorem 1 in the three forms that hold."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import jacfwd

from stillscape.bounds import _attention_norms, attention, constants, counterexamples
from stillscape.bounds._attention_norms import spectral
from stillscape.bounds.audit import _cases
from stillscape.bounds.audit._cases import Case, Truth, attention_case, pieces
from stillscape.bounds.audit._measure import Ratios, finding, share
from stillscape.bounds.audit.statement import Claim, Finding, Setting, judged
from stillscape.hessian import MSE, self_attention


def printed_theorem(setting: Setting) -> Finding:
    """Measure the printed M of #17 at its counterexample and in draws; Theorem 1' at the same places."""
    example = counterexamples.printed_theorem_1()
    case = _example_case(example)
    truth = case.truth()
    norm, M = float(truth.norms), float(_bound(case, "printed"))
    values = float(spectral(pieces(truth.H, case)["W_V", "W_V"]))
    printed, mended = Ratios(), Ratios()
    for draw in _draws(setting, ("mse",), 2):
        norms = draw.truth().norms
        printed.add(norms, _printed(draw))
        mended.add(norms, _bound(draw, "a_priori"))
    mended.add(truth.norms, _bound(case, "a_priori"))
    return finding(
        judged(norm <= M and printed.holds),
        f"a layer with ||X|| = ||W|| = 1 and no residual: ||H|| = {norm:.6g} against M = {M:.6g}, ratio "
        f"{norm / M:.4g}; the block of W_V alone has {values:.6g}. Random draws: {printed.violations} of "
        f"{len(printed.values)} above M, median M/||H|| {printed.median:.3g}",
        mended,
        {"norm": norm, "printed": M, "ratio": norm / M, "draws_above": printed.violations},
        measured=f"Theorem 1' at the same places: {mended.text()}",
    )


def largest_block(setting: Setting) -> Finding:
    """Measure the step from the largest block to the whole matrix."""
    case = _example_case(counterexamples.max_over_blocks())
    truth = case.truth()
    blocks = _block_norms(truth, case)
    attained = float(truth.norms / blocks.amax((-2, -1)))
    step, mended = Ratios(), Ratios()
    for draw in _draws(setting, ("mse", "mean"), 4):
        truth = draw.truth()
        blocks = _block_norms(truth, draw)
        step.add(truth.norms, blocks.amax((-2, -1)))
        mended.add(truth.norms, _attention_norms.block_matrix_norm(blocks))
    truth = case.truth()
    mended.add(truth.norms, _attention_norms.block_matrix_norm(_block_norms(truth, case)))
    return finding(
        judged(step.holds and attained <= 1),
        f"two tokens x = (1, -1): ||H|| is {attained:.6g} times its largest block; in draws up to {step.largest:.3g}, "
        f"above it in {share(step.violations, len(step.values))}",
        mended,
        {"attained": attained},
    )


def frobenius_loss(setting: Setting) -> Finding:
    """Measure the Hessian under the literal premise of Theorem 1, with the target ever nearer."""
    norms, mended, said = [], Ratios(), []
    for eta in (1.0, 1e-2, 1e-4):
        example, loss = counterexamples.frobenius_loss(eta)
        exact = self_attention(*example.layer, loss=loss).dense()
        norms.append(float(torch.linalg.eigvalsh(exact).abs().amax()))
        M = float(attention.self_attention(*example.layer, loss=example.loss, kind="printed"))
        said.append(f"{norms[-1]:.5g} (M = {M:.4g})")
        mended.add(norms[-1], attention.self_attention(*example.layer, loss=loss, kind="a_priori"))
    return finding(
        judged(norms[-1] <= M),
        f"at distance 1, 0.01, 0.0001 from the target ||H|| is {', '.join(said)}: no M bounds it",
        mended,
        {"norm_1": norms[0], "norm_2": norms[1], "norm_3": norms[2]},
        measured=f"Theorem 1' with beta = ||B||: {mended.text()}",
    )


def lemma_1(setting: Setting) -> Finding:
    """Measure the norm of softmax's Jacobian."""
    printed, mended = Ratios(), Ratios()
    for tokens in (2, 3, 5, 9):
        a = _cases.probabilities(setting.generator, _cases.spread(setting.draws, 4), tokens)
        norms = _jacobian_norm(a)
        printed.add(norms, 1.0)
        mended.add(norms, constants.softmax_jacobian_norm(a))
        mended.add(norms, constants.SOFTMAX_JACOBIAN)
    a = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    top = float(_jacobian_norm(a))
    mended.add(top, constants.SOFTMAX_JACOBIAN)
    return Finding(
        judged(printed.holds),
        f"true of the right derivative, twice too large: {printed.text()}",
        mended.text(),
        f"sharp: attained {top / constants.SOFTMAX_JACOBIAN:.6g} at (1/2, 1/2, 0)",
        mended.holds,
        {"printed_largest": printed.largest, "attained": top / constants.SOFTMAX_JACOBIAN},
    )


def lemma_2(setting: Setting) -> Finding:
    """Measure the second derivative of softmax on unit vectors, at random and at the extreme two tokens."""
    ratios, constant = Ratios(), constants.SOFTMAX_SECOND
    for tokens in (2, 3, 5, 9):
        n = _cases.spread(setting.draws, 4)
        a = _cases.probabilities(setting.generator, n, tokens)
        u, v, w = _units(setting, n, tokens)
        ratios.add(_third(a, u, v, w).abs(), constant)
        ratios.add(_third(a, u, u, u).abs(), constant)
        level = (u - (a * u).sum(-1, keepdim=True)).abs().amax(-1)
        ratios.add(_third(a, u, v, v).abs(), level * constants.softmax_jacobian_norm(a))
    p = 0.5 * (1.0 - 1.0 / math.sqrt(3.0))
    a = torch.tensor([p, 1.0 - p], dtype=torch.float64)
    at = torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2.0)
    second = jacfwd(jacfwd(lambda t: t.softmax(-1)))(a.log())
    top = abs(float(torch.einsum("jkl,j,k,l->", second, at, at, at)))
    ratios.add(top, constant)
    return finding(
        "undefined",
        "nothing is said of d2A/dT2; a norm of 1 is used without a word",
        ratios,
        {"attained": top / constants.SOFTMAX_SECOND},
        tightness=f"sharp: attained {top / constants.SOFTMAX_SECOND:.6g}",
    )


def lemma_4(setting: Setting) -> Finding:
    """Measure norms of attention at all sharpnesses, and of pooled attention."""
    printed, stretch, mended = Ratios(), Ratios(), Ratios()
    for L, d in ((2, 2), (4, 3), (7, 2)):
        n = _cases.spread(setting.draws, 3)
        case = attention_case(setting.generator, (L, d, 2, d), n, shared=False)
        A, X = _cases.attention(case.X, case.weights), case.X
        norms, rows = spectral(A), X.norm(dim=-1).amax(-1)
        printed.add(norms, torch.ones_like(norms))
        stretch.add(spectral(A @ X), spectral(X))
        mended.add(norms, constants.attention_norm(A))
        mended.add(constants.attention_norm(A), torch.full_like(norms, math.sqrt(L)))
        mended.add(spectral(A @ X), math.sqrt(L) * rows)
        pooling = _cases.probabilities(setting.generator, n, L)
        mended.add((pooling[:, None] @ A @ X).norm(dim=-1).squeeze(-1), rows)
    return finding(
        judged(printed.holds and stretch.holds),
        f"||A|| up to {printed.largest:.3g}, above 1 in {share(printed.violations, len(printed.values))}; ||AX||/||X|| "
        f"up to {stretch.largest:.3g}, above 1 in {share(stretch.violations, len(stretch.values))}",
        mended,
        {"norm": printed.largest, "stretch": stretch.largest},
    )


def a_priori(setting: Setting) -> Finding:
    """Measure Theorem 1' at the point, on balls, and where it is attained."""
    ball = Ratios()
    for sizes in _cases.SIZES:
        for loss in ("mse", "mean"):
            case = attention_case(setting.generator, sizes, _cases.spread(setting.share(10), 10), loss)
            ball.add(*_on_ball(setting, case))
    return _theorem(setting, "a_priori", counterexamples.tight_a_priori(), ball)


def data_dependent(setting: Setting) -> Finding:
    """Measure Theorem 1''."""
    return _theorem(setting, "data", counterexamples.tight_second_derivative())


def token_level(setting: Setting) -> Finding:
    """Measure Theorem 1'''."""
    return _theorem(setting, "token", counterexamples.tight_second_derivative())


def _theorem(setting: Setting, kind: str, tight: counterexamples.Example, ball: Ratios | None = None) -> Finding:
    ratios, looseness = Ratios(), Ratios()
    for case in _draws(setting, _cases.LOSSES, 1):
        ratios.add(case.truth().norms, _bound(case, kind))
    for sizes in _cases.SIZES:
        n = _cases.spread(setting.share(10), len(_cases.SIZES))
        case = attention_case(setting.generator, sizes, n, shared=False, ordinary=True)
        looseness.add(case.truth().norms, _bound(case, kind))
    example, refuted = _example_case(tight), _example_case(counterexamples.printed_theorem_1())
    attained = float(example.truth().norms / _bound(example, kind))
    every = Ratios()
    every.values = [*ratios.values, *looseness.values, attained]
    every.add(refuted.truth().norms, _bound(refuted, kind))
    above = float(refuted.truth().norms / _bound(refuted, "printed"))
    on_ball = "" if ball is None else f"; on balls around the weights: {ball.text()}"
    return finding(
        judged(above <= 1.0),
        f"the one M of Theorem 1 is below ||H|| by the factor {above:.4g}: #17",
        every,
        {"attained": attained, "largest": every.largest, "median": looseness.median, "violations": every.violations},
        measured=every.text() + on_ball,
        tightness=f"median bound/truth {looseness.median:.3g} at Xavier weights, {ratios.median:.3g} over mixed "
        f"scales and losses; sharp: attained {attained:.6g}",
        also=ball is None or ball.holds,
    )


def _on_ball(setting: Setting, case: Case) -> tuple[Tensor, Tensor]:
    """Return the norms of Hessians somewhere on a ball's surface, and the bounds for the whole ball."""
    radius = float(10.0 ** setting.rng.uniform(-2, 0.5))
    step = torch.randn(case.theta[0].shape, generator=setting.generator, dtype=case.X.dtype)
    moved = case.theta + radius * step / step.norm()
    parts = moved.split(case.sizes, -1)
    weights = {k: p.reshape(w.shape) for (k, w), p in zip(case.weights.items(), parts, strict=True)}
    there = Case(case.X, weights, case.forward, case.loss, case.plain, case.own)
    bound = attention.self_attention(*case.layer, loss=case.loss, kind="a_priori", radius=radius)
    return there.truth().norms, bound


def _draws(setting: Setting, losses: tuple[str, ...], part: int) -> Iterator[Case]:
    """Yield layers with weights of their own in every draw, at mixed scales."""
    n = _cases.spread(setting.share(part), len(losses) * len(_cases.SIZES))
    for loss in losses:
        for sizes in _cases.SIZES:
            yield attention_case(setting.generator, sizes, n, loss, shared=False)


def _bound(case: Case, kind: str) -> Tensor:
    """Return a bound of Theorem 1 for every draw; the public door takes shared weights only."""
    if kind == "printed":
        return _printed(case)
    layer = _attention_norms.Layer(case.X, **case.weights)
    N = attention.pair_norms(layer, case.loss, kind)
    return _attention_norms.block_matrix_norm(N) * _attention_norms.ROUNDING


def _printed(case: Case) -> Tensor:
    """Return the printed M for every draw, by the public door."""
    assert isinstance(case.loss, MSE)
    found = []
    for number in range(len(case.X)):
        W_Q, W_K, W_V = (weight[number] for weight in case.weights.values())
        one = slice(number, number + 1)
        found.append(attention.self_attention(case.X[one], W_Q, W_K, W_V, loss=case.loss.take(one), kind="printed"))
    return torch.cat(found)


def _example_case(example: counterexamples.Example) -> Case:
    X, W_Q, W_K, W_V = example.layer
    weights = {"W_Q": W_Q[None], "W_K": W_K[None], "W_V": W_V[None]}
    return Case(X, weights, _cases.attend, example.loss, _cases.mean_square, (example.target,))


def _block_norms(truth: Truth, case: Case) -> Tensor:
    blocks, names = pieces(truth.H, case), list(case.weights)
    return torch.stack([torch.stack([spectral(blocks[a, b]) for b in names], -1) for a in names], -2)


def _jacobian_norm(a: Tensor) -> Tensor:
    """Return ||diag(a) - aa'|| of each row as ||R||^2 with rows sqrt(a_t)(e_t - a): nothing cancels beside a_t = 1."""
    unit = torch.eye(a.shape[-1], dtype=a.dtype)
    others = a @ (1.0 - unit)  # 1 - a_t
    R = torch.diag_embed(others) - a[..., None, :] * (1.0 - unit)
    return spectral(a.sqrt()[..., None] * R) ** 2


def _third(a: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Return D[u, v, w] of each row, the third cumulant, by its definition as an expectation."""
    u, v, w = (x - (a * x).sum(-1, keepdim=True) for x in (u, v, w))
    return (a * u * v * w).sum(-1)


def _units(setting: Setting, n: int, tokens: int) -> Tensor:
    x = torch.randn(3, n, tokens, generator=setting.generator, dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


CLAIMS = (
    Claim(
        "#17",
        "4.1, B.2",
        "Theorem 1: ||H_i|| <= M, the largest of four expressions in X_max, W_max, R_max, S_max",
        "Theorem 1': ||H_i|| <= M', the norm of the 3 x 3 matrix of bounds on the blocks",
        printed_theorem,
    ),
    Claim(
        "Largest block",
        "B.2",
        "||H|| is at most the largest of its blocks' norms",
        "||H|| <= ||N||, N the matrix of the blocks' norms; up to 3 times the largest block",
        largest_block,
    ),
    Claim(
        "Frobenius loss",
        "4.1",
        "Theorem 1's premise: the loss is ||.||_F itself",
        "the mean squared error, or any loss through beta = ||B|| and G",
        frobenius_loss,
    ),
    Claim("Lemma 1", "B.2", "||dA/dT|| <= 1", "||dA/dT|| <= max_ij 2 a_ij (1 - a_ij) <= 1/2", lemma_1),
    Claim(
        "Lemma 2",
        "B.2",
        "nothing on the second derivative of softmax",
        "|D[u, v, w]| <= sqrt(6)/9 |u||v||w|, and |D[u, v, v]| <= max_j |u_j - a'u| ||S|| |v|^2",
        lemma_2,
    ),
    Claim(
        "Lemma 4",
        "B.2",
        "||A|| <= 1 and ||AX|| <= ||X||",
        "||A||^2 <= largest column sum <= L, ||AX|| <= sqrt(L) max|x_j|, |X'A's| <= max|x_j| pooled",
        lemma_4,
    ),
    Claim(
        "Theorem 1'",
        "4.1",
        "M from norms alone",
        "||H|| <= ||N|| from norms of X, weights and residual; any loss; with radius on a whole ball",
        a_priori,
    ),
    Claim(
        "Theorem 1''",
        "4.1",
        "M from norms alone",
        "||H|| <= ||N|| from the measured attention, O(L^2 d + L d^2)",
        data_dependent,
    ),
    Claim(
        "Theorem 1'''",
        "4.1",
        "M from norms alone",
        "||H|| <= ||N|| from every token's own moments C_i and T_i",
        token_level,
    ),
)
