"""Statements #11 to #16: the blocks of Appendix B.2, the missing ones, and the forms that the package computes."""

import torch
from torch import Tensor

from stillscape.bounds import constants
from stillscape.bounds._attention_norms import spectral
from stillscape.bounds.audit import _cases
from stillscape.bounds.audit._cases import Case, attention_case, pieces
from stillscape.bounds.audit._kronecker import commutation, eye, kron, residual, spreader
from stillscape.bounds.audit._measure import Errors, Ratios, finding, misfit
from stillscape.bounds.audit.derivatives import layers, ordinary
from stillscape.bounds.audit.statement import Claim, Finding, Setting, judged, judged_product
from stillscape.hessian import self_attention

OUTER_PAIRS = (("W_V", "W_V"), ("W_Q", "W_Q"), ("W_V", "W_Q"), ("W_Q", "W_K"), ("W_V", "W_K"), ("W_K", "W_K"))
CURVED_PAIRS = (("W_V", "W_Q"), ("W_V", "W_K"), ("W_Q", "W_Q"), ("W_K", "W_K"), ("W_Q", "W_K"))


def printed_outer(setting: Setting) -> Finding:
    """Measure the four printed blocks of #11 at d = d_V, and all six at d != d_V."""
    printed, mended = Errors(), Errors()
    for case in ordinary(setting, 20, square=True):
        truth = case.truth()
        want, forms = pieces(truth.outer, case), [layer.printed_outer() for layer in layers(case)]
        for pair in forms[0]:
            printed.add(torch.stack([form[pair] for form in forms]), want[pair], truth.outer)
    for case in ordinary(setting, 20):
        _add_outer(mended, case, OUTER_PAIRS)
    return finding(
        judged(printed.holds), f"all four, d = d_V: {printed.text()}", mended, {"printed_worst": printed.worst}
    )


def printed_query_query(setting: Setting) -> Finding:
    """Measure #12 with R read as vec_r(F - Y)' (x) I."""
    printed, mended = Errors(), Errors()
    for case in ordinary(setting, 40, square=True):
        truth = case.truth()
        want = pieces(truth.functional, case)["W_Q", "W_Q"]
        tokens, width = truth.G.shape[1:]
        error = truth.G * (tokens * width / 2.0)
        found = [layer.printed_functional_QQ(e) for layer, e in zip(layers(case), error, strict=True)]
        printed.add(torch.stack(found), want, truth.H)
    for case in ordinary(setting, 40):
        _add_functional(mended, case, [("W_Q", "W_Q")])
    return finding(
        judged(printed.holds),
        f"R is not defined; read as vec_r(F - Y)' (x) I, d = d_V: {printed.text()}",
        mended,
        {"printed_worst": printed.worst},
    )


def printed_value_query(setting: Setting) -> Finding:
    """Try the subscript of #13, and measure with the one that fits."""
    case = attention_case(setting.generator, (4, 3, 2, 3), 1, ordinary=True)
    layer, truth = layers(case)[0], case.truth()
    moved = kron(eye(4), spreader(3, 3)) @ layer.Z_1 @ layer.Phi["W_Q"]
    where = misfit((("R_{d_V}", residual(truth.G[0], 3)), ("(I (x) S) Z_1 (I (x) W_K)", moved)))
    errors = Errors()
    for other in ordinary(setting, 40):
        _add_functional(errors, other, [("W_V", "W_Q")])
    norms = [float(spectral(spreader(size, 2)) ** 2 / size) for size in (1, 2, 3, 5)]
    sharp = max(abs(norm - 1.0) for norm in norms) < 1e-12
    return finding(
        judged_product(where),
        f"L, d, d_V = 4, 3, 3: {where}; S is not defined",
        errors,
        measured=f"{errors.text()}; ||S||^2/d_V is within {max(abs(norm - 1.0) for norm in norms):.0e} of 1",
        also=sharp,
    )


def printed_query_key(setting: Setting) -> Finding:
    """Try the second R of #14; measure the mended block, and the prefactor that one might suspect."""
    case = attention_case(setting.generator, (4, 3, 2, 3), 1, ordinary=True)
    layer, truth = layers(case)[0], case.truth()
    inner = kron(eye(4), layer.W_V.mT, eye(3)) @ kron(layer.Z_1, eye(3)) @ spreader(3, 3)
    where = misfit((("R_{d_V}", residual(truth.G[0], 3)), ("(...) S (x) I_{d_K}", kron(inner, eye(2)))))
    mended, suspected = Errors(), Errors()
    for other in ordinary(setting, 40):
        _add_functional(mended, other, [("W_Q", "W_K")])
        truth = other.truth()
        if other.shared["W_Q"].shape[1] == 1:
            continue
        for number, layer in enumerate(layers(other)):
            G, size = truth.G[number], layer.d * layer.d_K
            rest = residual(G, size) @ kron(eye(layer.L), layer.W_V.mT, layer.Phi["W_Q"].mT) @ layer.Z_2
            rest = layer.r**2 * rest @ layer.Phi["W_K"]
            wrong = rest + layer.r * (layer.functional(G, "W_Q", "W_K") - rest)
            want = pieces(truth.functional[number : number + 1], other)["W_Q", "W_K"]
            suspected.add(wrong[None], want)
    return finding(
        judged_product(where),
        f"L, d, d_K = 4, 3, 2: {where}. Its prefactor 1/sqrt(d_K) is right: 1/d_K in its place is off by up to "
        f"{suspected.worst:.0%}",
        mended,
        {"worst": mended.worst, "suspected_worst": suspected.worst},
    )


def missing_blocks(setting: Setting) -> Finding:
    """Measure the blocks that #15 misses."""
    errors = Errors()
    for case in ordinary(setting, 40):
        _add_functional(errors, case, [("W_V", "W_K"), ("W_K", "W_K")])
        _add_outer(errors, case, (("W_V", "W_K"), ("W_K", "W_K")))
    return finding("undefined", "the drafts give no H_o and H_f for (V, K) and (K, K)", errors)


def second_moment_bound(setting: Setting) -> Finding:
    """Measure what #16 uses without a proof, and the bound by Lemma 2 that takes its place."""
    used, mended = Ratios(), Ratios()
    for size in _cases.SIZES:
        case = attention_case(setting.generator, size, _cases.spread(setting.share(10), 5), shared=True)
        X, W = spectral(case.X), {name: spectral(weight) for name, weight in case.weights.items()}
        used.add(torch.stack([spectral(layer.Z_2) for layer in layers(case)]), X**5)
        truth = case.truth()
        r, g = size[2] ** -0.5, truth.G.norm(dim=-1).amax(-1)
        bound = constants.SOFTMAX_SECOND * r**2 * g * W["W_V"] * X**5 * W["W_K"] ** 2
        mended.add(spectral(_functional_block(case, "W_Q", "W_Q")), bound)
    return finding(
        "undefined",
        f"the text bounds ||Z_1|| a second time; the ||Z_2|| <= X_max^5 that it goes on with: {used.text()}",
        mended,
        {"used_largest": used.largest},
        also=used.holds,
    )


def kronecker_forms(setting: Setting) -> Finding:
    """Measure section 2.1 against the closed form of the package, in which nothing of it is computed."""
    errors = Errors()
    for loss in ("mse", "mean"):
        for case in ordinary(setting, 80, loss):
            exact = self_attention(*case.layer, loss=case.loss)
            whole, G = exact.dense(), case.truth().G
            for a, b in CURVED_PAIRS:
                forms = [layer.functional(g, a, b) for layer, g in zip(layers(case), G, strict=True)]
                errors.add(torch.stack(forms), exact.block(a, b, "functional"), whole)
    commuted = max(_commutation_error(p, q) for p in (1, 2, 3) for q in (1, 2, 4))
    return finding(
        "undefined",
        'the drafts leave the other pairs to "follow similarly"',
        errors,
        measured=f"{errors.text()}; K vec(M) = vec(M') within {commuted:.0e}",
        also=commuted == 0.0,
    )


def proposition_1(setting: Setting) -> Finding:
    """Measure the functional part of every block, of every loss."""
    return _closed_form(setting, "functional")


def proposition_2(setting: Setting) -> Finding:
    """Measure the outer part of every block, of every loss."""
    return _closed_form(setting, "outer")


def proposition_3(setting: Setting) -> Finding:
    """Measure the product with a vector."""
    errors = Errors()
    for loss in _cases.LOSSES:
        for case in ordinary(setting, 40, loss):
            H = case.hessians()
            v = torch.randn(H.shape[:2], generator=setting.generator, dtype=H.dtype)
            got = self_attention(*case.layer, loss=case.loss).matvec(v)
            size = torch.linalg.matrix_norm(H) * v.norm(dim=-1)
            errors.add(got, (H @ v[..., None]).squeeze(-1), size[:, None])
    return finding("undefined", "nothing is printed", errors)


def _closed_form(setting: Setting, part: str) -> Finding:
    errors = Errors()
    for loss in _cases.LOSSES:
        for case in ordinary(setting, 40, loss):
            truth = case.truth()
            want = truth.functional if part == "functional" else truth.outer
            errors.add(self_attention(*case.layer, loss=case.loss).dense(part), want, truth.H)
    return finding("undefined", "only for single blocks and the mean squared error: #11 to #15", errors)


def _functional_block(case: Case, a: str, b: str) -> Tensor:
    return self_attention(*case.layer, loss=case.loss).block(a, b, "functional")


def _add_outer(errors: Errors, case: Case, pairs: tuple[tuple[str, str], ...]) -> None:
    truth = case.truth()
    J = {name: torch.stack([layer.jacobian(name) for layer in layers(case)]) for name in case.weights}
    want = pieces(truth.outer, case)
    for a, b in pairs:
        errors.add(J[a].mT @ truth.B @ J[b], want[a, b], truth.outer)


def _add_functional(errors: Errors, case: Case, pairs: list[tuple[str, str]]) -> None:
    truth = case.truth()
    want = pieces(truth.functional, case)
    for a, b in pairs:
        forms = [layer.functional(G, a, b) for layer, G in zip(layers(case), truth.G, strict=True)]
        errors.add(torch.stack(forms), want[a, b], truth.H)


def _commutation_error(p: int, q: int) -> float:
    M = torch.arange(float(p * q), dtype=torch.float64).reshape(p, q)
    return float((commutation(p, q) @ M.mT.reshape(-1) - M.reshape(-1)).abs().max())


CLAIMS = (
    Claim(
        "#11",
        "B.2",
        "H_o(V, V), H_o(Q, Q), H_o(V, Q), H_o(Q, K) by M_1 and Z_1, for the mean squared error",
        "as printed for d = d_V, else I_d beside W_Q and W_K; with H_o(V, K) and H_o(K, K)",
        printed_outer,
    ),
    Claim(
        "#12",
        "B.2",
        "H_f(Q, Q) = 2/(L d_V d_K) R ((I (x) W_V' (x) I (x) W_K') Z_2 (I (x) W_K))",
        "as printed with R = vec_r(F - Y)' (x) I_{d d_K}; vec_r(G)' for any loss",
        printed_query_query,
    ),
    Claim(
        "#13",
        "B.2",
        "H_f(V, Q) = 2/(L d_V sqrt(d_K)) R_{d_V} ((I (x) S) Z_1 (I (x) W_K))",
        "with R_{d d_V}, and S = (I (x) K_{d,d_V})(vec_r(I) (x) I_d), ||S|| = sqrt(d_V)",
        printed_value_query,
    ),
    Claim(
        "#14",
        "B.2",
        "H_f(Q, K): a term in Z_2, and 2/(L d_V sqrt(d_K)) R_{d_V} ((I (x) W_V' (x) I)(Z_1 (x) I) S (x) I)",
        "R_{d d_K} in the second term, and (x) I_{d_K} on its whole product",
        printed_query_key,
    ),
    Claim(
        "#15",
        "B.2",
        "nothing on (V, K) and (K, K)",
        "H_o and H_f of (V, K) and (K, K) with Phi_K = (W_Q (x) I) K_{d_K,d}",
        missing_blocks,
    ),
    Claim(
        "#16",
        "B.2",
        "explicit bounds for Z_2: the paragraph on Z_1 again",
        "||H_f(Q, Q)|| <= sqrt(6)/9 r^2 max|g_i| ||W_V|| ||W_K||^2 ||X||^5 by Lemma 2",
        second_moment_bound,
    ),
    Claim(
        "Section 2.1",
        "4.1",
        '"the full set of expressions follows this pattern"',
        "all blocks of H_f by Z_1, Z_2 and S, equal to Proposition 1",
        kronecker_forms,
    ),
    Claim(
        "Proposition 1",
        "4.1.2",
        "H_f of single pairs",
        "H_f of all pairs from C_i = X'S_iX, T_i = X'D_i[u_i]X and X'PX, any loss",
        proposition_1,
    ),
    Claim(
        "Proposition 2",
        "4.1.1",
        "H_o of single pairs",
        "H_o of all pairs from C_i and B, any loss; of rank C - 1 for a pooled cross-entropy",
        proposition_2,
    ),
    Claim(
        "Proposition 3",
        "-",
        "nothing",
        "H v from the tangent of the gradient, without any matrix",
        proposition_3,
    ),
)
