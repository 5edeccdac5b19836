"""Statements #1 to #10: first and second derivatives of the attention layer, Sections 4.1.1 and 4.1.2."""

import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from stillscape.bounds import constants, counterexamples
from stillscape.bounds._attention_norms import spectral
from stillscape.bounds.audit import _cases, _kronecker
from stillscape.bounds.audit._cases import Case, attention_case, pieces
from stillscape.bounds.audit._kronecker import Layer, commutation, eye, kron
from stillscape.bounds.audit._measure import Errors, Ratios, finding, misfit, share, size_of
from stillscape.bounds.audit.statement import Claim, Finding, Setting, judged, judged_product
from stillscape.hessian import self_attention
from stillscape.hessian.self_attention import WEIGHTS


def ordinary(setting: Setting, part: int, loss: str = "mse", square: bool = False) -> list[Case]:
    """Return layers with N(0, 1) tokens and Xavier weights in several sizes: one case a size, shared weights."""
    sizes = _cases.SQUARE_SIZES if square else _cases.SIZES
    n = _cases.spread(setting.share(part), len(sizes))
    return [attention_case(setting.generator, size, n, loss, ordinary=True) for size in sizes]


def layers(case: Case) -> list[Layer]:
    """Return the layer of each sample."""
    return [Layer(X, **case.shared) for X in case.X]


def jacobians(case: Case) -> dict[str, Tensor]:
    """Return dF/dW of each weight by automatic differentiation."""
    J = vmap(jacfwd(case.output))(case.theta, case.X).flatten(1, 2)
    return dict(zip(case.weights, J.split(case.sizes, -1), strict=True))


def softmax_derivative(setting: Setting) -> Finding:
    """Measure #1 against automatic differentiation, from flat rows to sharp ones."""
    printed, mended = Errors(), Errors()
    for draw in range(setting.share(10)):
        tokens = 2 + draw % 5
        T = torch.randn(tokens, tokens, generator=setting.generator, dtype=torch.float64)
        T = T * 10.0 ** setting.rng.uniform(-1, 0.5)  # sharper, and a - aa' itself is rounding
        want = jacfwd(lambda t: t.softmax(-1))(T).reshape(tokens**2, tokens**2)[None]
        A = T.softmax(-1)
        printed.add(counterexamples.softmax_derivative_printed(A)[None], want)
        mended.add(counterexamples.softmax_derivative(A)[None], want)
    A = 0.96 * eye(4) + 0.01
    wrong, right = (
        float(spectral(f(A))) for f in (counterexamples.softmax_derivative_printed, counterexamples.softmax_derivative)
    )
    return finding(
        judged(printed.holds),
        f"off in {len(printed.values)} draws by up to {printed.worst:.3g} times the true derivative; at "
        f"A = 0.96 I + 0.01 11', L = 4, its norm is {wrong:.4g}, the true one {right:.3g}",
        mended,
        {"printed_worst": printed.worst, "printed_norm": wrong, "true_norm": right},
    )


def attention_norm(setting: Setting) -> Finding:
    """Measure #2 on ordinary layers and at the extreme one."""
    above, longer, total, mended = 0, 0, 0, Ratios()
    for L, d in ((3, 2), (4, 4), (8, 4)):
        n = _cases.spread(setting.draws, 3)
        case = attention_case(setting.generator, (L, d, 2, d), n, shared=False, ordinary=True)
        A = _cases.attention(case.X, case.weights)
        norms = spectral(A)
        above, total = above + int((norms > 1 + 1e-9).sum()), total + n
        longer += int((spectral(A @ case.X) > spectral(case.X)).sum())
        mended.add(norms, constants.attention_norm(A))
    example = counterexamples.attention_norm_above_one()
    A, X = example.attention, example.X
    norm, stretch = float(spectral(A)), float(spectral(A @ X) / spectral(X))
    mended.add(spectral(A), constants.attention_norm(A))
    return finding(
        judged(above == 0 and longer == 0 and norm <= 1),
        f"||A|| > 1 in {share(above, total)} ordinary draws and ||AX|| > ||X|| in {longer}; four tokens that attend to "
        f"the first have ||A|| = {norm:.6g} and ||AX||/||X|| = {stretch:.6g}",
        mended,
        {"above_one": above, "draws": total, "norm": norm},
    )


def value_jacobian(setting: Setting) -> Finding:
    """Measure #3, which holds."""
    errors = Errors()
    for case in ordinary(setting, 10):
        want = jacobians(case)["W_V"]
        errors.add(torch.stack([layer.jacobian("W_V") for layer in layers(case)]), want)
    return finding(judged(errors.holds), errors.text(), errors)


def query_jacobian(setting: Setting) -> Finding:
    """Try the printed product of #4, and measure the one that conforms."""
    layer = layers(attention_case(setting.generator, (4, 3, 2, 3), 1, ordinary=True))[0]
    X, XW_K, XW_V = layer.X, layer.X @ layer.W_K, layer.X @ layer.W_V
    where = misfit((("dA/dT (X (x) XW_K)", layer.dA @ kron(X, XW_K)), ("XW_V", XW_V)))
    true = size_of(layer.jacobian("W_Q"))
    errors = Errors()
    for case in ordinary(setting, 10):
        J = jacobians(case)
        # On the scale of all three: where attention is all but one-hot, dF/dW_Q is rounding.
        errors.add(
            torch.stack([layer.jacobian("W_Q") for layer in layers(case)]), J["W_Q"], torch.cat([*J.values()], -1)
        )
    return finding(judged_product(where), f"L, d, d_K = 4, 3, 2: {where}; the derivative is {true}", errors)


def key_scores(setting: Setting) -> Finding:
    """Measure #5: the printed derivative is that in W_K'."""
    printed, single, mended, queries = Errors(), Errors(), Errors(), Errors()
    for sizes in (*_cases.SIZES, (3, 2, 1, 2)):
        n = _cases.spread(setting.share(10), len(_cases.SIZES))
        case = attention_case(setting.generator, sizes, n, ordinary=True)

        def scores(theta: Tensor, X: Tensor, case: Case = case) -> Tensor:
            W_Q, W_K, _ = theta.split(case.sizes)
            shape = case.shared["W_Q"].shape
            return X @ W_Q.reshape(shape) @ (X @ W_K.reshape(shape)).mT * shape[1] ** -0.5

        true_Q, true_K, _ = vmap(jacfwd(scores))(case.theta, case.X).flatten(1, 2).split(case.sizes, -1)
        as_printed = torch.stack([layer.r * kron(layer.X @ layer.W_Q, layer.X) for layer in layers(case)])
        (printed if sizes[2] > 1 else single).add(as_printed, true_K)
        mended.add(as_printed @ commutation(sizes[2], sizes[1]), true_K)
        queries.add(torch.stack([layer.r * kron(layer.X, layer.X @ layer.W_K) for layer in layers(case)]), true_Q)
    return finding(
        judged(printed.holds),
        f"off by up to {printed.worst:.3g} times the true derivative for d_K > 1, exact for d_K = 1 "
        f"({single.worst:.0e}); dT/dW_Q beside it holds ({queries.worst:.0e})",
        mended,
        {"printed_worst": printed.worst, "worst": mended.worst, "queries_worst": queries.worst},
        also=queries.holds,
    )


def outer_query_key(setting: Setting) -> Finding:
    """Try the printed product of #6, and measure J_Q' B J_K with a loss whose B couples tokens."""
    layer = layers(attention_case(setting.generator, (4, 3, 2, 3), 1, ordinary=True))[0]
    X = layer.X
    left = kron(X, X @ layer.W_K).mT @ layer.dA.mT
    where = misfit((("(X (x) XW_K)' dA'/dT", left), ("XW_V", X @ layer.W_V)))
    errors = Errors()
    for case in ordinary(setting, 20, "mean"):
        truth = case.truth()
        J = {name: torch.stack([layer.jacobian(name) for layer in layers(case)]) for name in ("W_Q", "W_K")}
        errors.add(J["W_Q"].mT @ truth.B @ J["W_K"], pieces(truth.outer, case)["W_Q", "W_K"], truth.outer)
    return finding(
        judged_product(where), f"L, d, d_K = 4, 3, 2: {where}; and the commutation of W_K is missing, as in #5", errors
    )


def second_query_key(setting: Setting) -> Finding:
    """Try both printed terms of #7, and measure the ones that conform."""
    layer = layers(attention_case(setting.generator, (4, 3, 2, 3), 1, ordinary=True))[0]
    X = layer.X
    pair = kron(kron(X, X @ layer.W_K), kron(X @ layer.W_Q, X))
    where = misfit((("d2A/dT2", layer.d2A), ("(X (x) XW_K) (x) (XW_Q (x) X)", pair)))
    last, true = size_of(layer.dA @ kron(X, X)), size_of(layer.second("W_Q", "W_K"))
    errors = Errors()
    for case in ordinary(setting, 50):
        F = case.second()
        want = _block(F, case, "W_Q", "W_K")
        first = torch.cat([J.flatten(1) for J in jacobians(case).values()], -1)
        scale = torch.cat([F.flatten(1), first], -1)  # where attention is all but one-hot, d2F alone is rounding
        errors.add(torch.stack([layer.second("W_Q", "W_K") for layer in layers(case)]), want, scale)
    return finding(
        judged_product(where),
        f"L, d, d_K = 4, 3, 2: {where}; the second term, without XW_V, is {last} and the derivative {true}",
        errors,
    )


def functional_criterion(setting: Setting) -> Finding:
    """Measure #8: which blocks of the functional part vanish, and how large the denied ones are."""
    largest, seen, share_of_H = dict.fromkeys(_pairs(), 0.0), 0, 0.0
    for case in ordinary(setting, 10):
        truth = case.truth()
        whole = torch.linalg.matrix_norm(truth.H)
        for pair, block in pieces(truth.functional, case).items():
            if pair in largest:
                largest[pair] = max(largest[pair], float((torch.linalg.matrix_norm(block) / whole).max()))
        seen += len(case.X)
    share_of_H = max(largest["W_V", "W_Q"], largest["W_V", "W_K"])
    exact = self_attention(*case.layer, loss=case.loss)
    closed = float(exact.block("W_V", "W_V", "functional").abs().max())
    others = min(size for pair, size in largest.items() if pair != ("W_V", "W_V"))
    return Finding(
        judged(share_of_H < 1e-9),
        f"W_V does not enter A, yet H_f(V, Q) and H_f(V, K) reach {share_of_H:.1%} of ||H||_F in {seen} draws",
        f"{seen} draws: H_f(V, V) is at most {largest['W_V', 'W_V']:.0e} of ||H||_F (closed form {closed:.0e}), each "
        f"other block reaches {others:.1%} or more",
        "sharp: no other block vanishes",
        largest["W_V", "W_V"] < 1e-9 and closed == 0.0 and others > 1e-3,
        {"largest_share": share_of_H, "least_other": others},
    )


def functional_factor(setting: Setting) -> Finding:
    """Try G (x) I of #9 in front of the second derivative, and measure vec_r(G)' (x) I."""
    errors, where = Errors(), None
    for case in ordinary(setting, 50):
        truth, second = case.truth(), case.second()
        want = pieces(truth.functional, case)
        for a in WEIGHTS:
            size = case.shared[a].numel()
            for b in WEIGHTS:
                parts = _block(second, case, a, b)
                got = [_kronecker.residual(G, size) @ part for G, part in zip(truth.G, parts, strict=True)]
                errors.add(torch.stack(got), want[a, b], truth.H)
        G = truth.G[0]
        where = misfit((("G (x) I", kron(G, eye(size))), ("d2F/dW2", parts[0])))
    return finding(judged_product(where), f"L, d, d_K, d_V = {', '.join(map(str, _cases.SIZES[-1]))}: {where}", errors)


def output_hessian(setting: Setting) -> Finding:
    """Try an L x d matrix in #10's place of B, and an average of B over samples."""
    averaged, own = Errors(), Errors()
    for case in ordinary(setting, 20, "mean"):
        truth = case.truth()
        mean_outer = truth.outer.mean(0)[None]
        with_mean = (truth.J.mT @ truth.B.mean(0) @ truth.J).mean(0)[None]
        averaged.add(with_mean, mean_outer)
        own.add(self_attention(*case.layer, loss=case.loss).dense("outer"), truth.outer)
    J, G = truth.J[0], truth.G[0]
    where = misfit((("(dF/dw)'", J.mT), ("an L x d matrix", G)))
    return finding(
        judged_product(where),
        f"{where}; B is {size_of(truth.B[0])}. With B averaged over the samples of a cross-entropy, the mean H_o is "
        f"off by up to {averaged.worst:.1%}",
        own,
        {"averaged_worst": averaged.worst},
    )


def _pairs() -> list[tuple[str, str]]:
    return [("W_V", "W_V"), ("W_V", "W_Q"), ("W_V", "W_K"), ("W_Q", "W_Q"), ("W_K", "W_K"), ("W_Q", "W_K")]


def _block(second: Tensor, case: Case, a: str, b: str) -> Tensor:
    """Return d vec_r(dF/dW_a) / dW_b, rows (output, entry of W_a), from second derivatives (n, F, P, P)."""
    place = dict(zip(case.weights, range(len(case.weights)), strict=True))
    return second.split(case.sizes, -2)[place[a]].split(case.sizes, -1)[place[b]].flatten(1, 2)


CLAIMS = (
    Claim(
        "#1",
        "B.2",
        "dA_ij/dT_kl = A_ij (delta_ik delta_jl - A_kl)",
        "dA_ij/dT_kl = delta_ik A_ij (delta_jl - A_il): rows don't act on each other",
        softmax_derivative,
    ),
    Claim(
        "#2",
        "B.2",
        "||A|| <= 1, so ||AX|| <= ||X||",
        "||A||^2 <= the largest column sum of A <= L (Lemma 4)",
        attention_norm,
    ),
    Claim("#3", "4.1.1", "dF/dW_V = AX (x) I", "as printed", value_jacobian),
    Claim(
        "#4",
        "4.1.1",
        "dF/dW_Q = r dA/dT (X (x) XW_K) XW_V, r = 1/sqrt(d_K)",
        "dF/dW_Q = r (I_L (x) W_V'X') dA/dT (X (x) XW_K)",
        query_jacobian,
    ),
    Claim(
        "#5",
        "4.1.1",
        "dT/dW_K = r XW_Q (x) X",
        "that is the derivative in W_K'; in W_K it is r (XW_Q (x) X) K_{d_K,d}",
        key_scores,
    ),
    Claim(
        "#6",
        "4.1.1",
        "H_o(Q, K) = 1/d_K ((X (x) XW_K)' dA'/dT XW_V)' B (dA/dT (XW_Q (x) X) XW_V)",
        "H_o(Q, K) = J_Q' B J_K with the J of docs/theory, section 2.1",
        outer_query_key,
    ),
    Claim(
        "#7",
        "4.1.2",
        "d2F/dW_Q dW_K = 1/d_K d2A/dT2 ((X (x) XW_K) (x) (XW_Q (x) X)) XW_V + r dA/dT (X (x) X)",
        "r^2 (I (x) W_V' (x) Phi_Q') Z_2 Phi_K + r ((I (x) W_V' (x) I)(Z_1 (x) I) S) (x) I",
        second_query_key,
    ),
    Claim(
        "#8",
        "4.1.2",
        "H_f(i, j) is not zero when both W_i and W_j influence A",
        "only H_f(V, V) is zero for every input",
        functional_criterion,
    ),
    Claim(
        "#9",
        "3.5, 4.1.2",
        "H_f = (dl/dF (x) I) d2F/dW_i dW_j with dl/dF an L x d matrix",
        "H_f = (vec_r(G)' (x) I) d2F/dW_i dW_j",
        functional_factor,
    ),
    Claim(
        "#10",
        "4.1.1",
        "d2L_k/dF2 is an L x d matrix, averaged over the samples",
        "B is (L d_V) x (L d_V) and each sample's own",
        output_hessian,
    ),
)
