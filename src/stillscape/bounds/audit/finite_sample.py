"""What holds in probability over the order of the data: the law of the mean square, and deviations from the whole."""

import itertools
import math

import numpy as np
from scipy.stats import hypergeom

from stillscape.bounds import finite_sample as bounds
from stillscape.bounds import local_surface, mean_square
from stillscape.bounds.audit._measure import SLACK, Ratios
from stillscape.bounds.audit.statement import Claim, Finding, Setting

LEVEL = 0.9


def mean_square_law(setting: Setting) -> Finding:
    """Measure the mean square over all orders of a few losses, over random samples, and over Gaussian steps."""
    worst, cases = 0.0, 0
    for m in (3, 5, 6):
        losses = setting.rng.standard_normal(m) ** 2
        orders = np.array(list(itertools.permutations(losses)))
        means = np.cumsum(orders, 1) / np.arange(1, m + 1)
        square = (np.diff(means, axis=1) ** 2).mean(0)
        law = mean_square.mean_square_difference(np.arange(1, m), float(losses.var(ddof=1)))
        worst, cases = max(worst, float(np.abs(square / law - 1.0).max())), cases + m - 1
    k, repeats = 4, 10 * max(1000, setting.draws)
    drawn = setting.rng.exponential(size=(repeats, k + 1))
    ratio = ((drawn.mean(1) - drawn[:, :k].mean(1)) ** 2) / mean_square.mean_square_difference(k, 1.0)
    off, error = float(ratio.mean() - 1.0), float(ratio.std() / math.sqrt(repeats))
    gaussian, gaussian_error = _gaussian(setting, repeats)
    return Finding(
        "undefined",
        "no law is printed beside an O(1/k) envelope",
        f"all orders of 3, 5 and 6 losses, {cases} sizes: worst relative error {worst:.1e}; {repeats} random samples: "
        f"off by {off:+.2%} with standard error {error:.2%}; Gaussian steps: off by {gaussian:+.2%} with standard "
        f"error {gaussian_error:.2%}",
        "exact",
        worst < 1e-12 and abs(off) < 5 * error and abs(gaussian) < 5 * gaussian_error,
        {"worst": worst, "random": off, "random_error": error, "gaussian": gaussian},
    )


def hoeffding_serfling(setting: Setting) -> Finding:
    """Measure how often Hoeffding-Serfling's bound misses, by exact sums over all subsets."""
    worst, populations = _worst_miss(setting, "hoeffding_serfling")
    k = np.arange(1, 11)
    parts = np.minimum(1 - (k - 1) / 10, (1 - k / 10) * (1 + 1 / k))
    same = float(np.abs(bounds.serfling_factor(k, 10) - parts).max())
    drawn, draws = _drawn_miss(setting, "hoeffding_serfling")
    return Finding(
        "undefined",
        "no statement on the distance from k samples to all is printed",
        f"{populations} settings of population, size and level, exact sums over all subsets or the hypergeometric "
        f"law: misses at most {worst:.3g} of the allowed share; {draws} random orders of heavy-tailed losses: missed "
        f"{drawn:.2%} where {1 - LEVEL:.0%} is allowed; rho is the smaller part within {same:.0e}",
        f"largest miss share/allowed {worst:.3g}",
        worst <= 1.0 and same < 1e-15 and _within(drawn, draws),
        {"worst": worst, "drawn": drawn, "level": LEVEL},
    )


def bernstein_serfling(setting: Setting) -> Finding:
    """Measure how often the empirical Bernstein-Serfling bound misses, and one without its range term."""
    worst, populations = _worst_miss(setting, "bernstein_serfling")
    drawn, draws = _drawn_miss(setting, "bernstein_serfling")
    without, _ = _worst_miss(setting, "without_range")
    return Finding(
        "undefined",
        "nothing is printed",
        f"{populations} settings of population, size and level, exact sums: misses at most {worst:.3g} of the allowed "
        f"share; {draws} random orders of heavy-tailed losses: missed {drawn:.2%} where {1 - LEVEL:.0%} is "
        f"allowed; without the range term it would miss {without:.3g} times the allowed share",
        f"largest miss share/allowed {worst:.3g}: far from tight",
        worst <= 1.0 and _within(drawn, draws),
        {"worst": worst, "drawn": drawn, "without_range": without},
    )


def normal_approximation(setting: Setting) -> Finding:
    """Measure the coverage of the finite-population normal interval where losses are tame, and where they are not."""
    tame, draws = _drawn_miss(setting, "normal", heavy=False)
    heavy, _ = _drawn_miss(setting, "normal", heavy=True)
    error = math.sqrt(LEVEL * (1 - LEVEL) / draws)
    return Finding(
        "undefined",
        "nothing is printed",
        f"{draws} random orders, k = 60 of 200: missed {tame:.1%} where {1 - LEVEL:.0%} is meant (standard error "
        f"{error:.1%}) for tame losses, {heavy:.1%} for heavy-tailed ones",
        "an approximation: no certificate",
        abs(tame - (1 - LEVEL)) < 0.03 + 5 * error,
        {"tame": tame, "heavy": heavy},
    )


def matrix_bernstein(setting: Setting) -> Finding:
    """Measure matrix Bernstein for Hessians without replacement, and what it would be for gradients by covariance."""
    m, k, P, repeats = 60, 20, 3, max(200, setting.draws // 4)
    root = setting.rng.standard_normal((m, P, 2))
    H = root @ root.transpose(0, 2, 1)
    gaps = H - H.mean(0)
    v = float(np.abs(np.linalg.eigvalsh((gaps @ gaps).mean(0))).max())
    reach = float(np.abs(np.linalg.eigvalsh(gaps)).max())
    t = local_surface.matrix_bernstein(k, variance_norm=v, largest=reach, dimension=P, level=LEVEL)
    ratios, missed = Ratios(), 0
    for _ in range(repeats):
        chosen = setting.rng.permutation(m)[:k]
        norm = np.abs(np.linalg.eigvalsh(gaps[chosen].mean(0))).max()
        ratios.add(norm, t)
        missed += norm > t
    g = np.concatenate([np.eye(8), -np.eye(8)])
    covariance = float(np.linalg.eigvalsh(g.T @ g / len(g)).max())
    trace = float((g**2).sum(1).mean())
    spread = float((np.linalg.norm(_means(setting, g, k=4, repeats=repeats), axis=1) ** 2).mean() * 4)
    share = missed / repeats
    return Finding(
        "undefined",
        "nothing is printed on H_k - H beyond a bound",
        f"{repeats} draws of 20 of 60 Hessians: missed {share:.2%} where {1 - LEVEL:.0%} is allowed. For gradients v "
        f"is mean |g_i - mean|^2 = {trace:.3g}: k E|mean g|^2 is {spread:.3g}, and the covariance has norm "
        f"{covariance:.3g}",
        f"t/deviation: median {ratios.median:.3g}, best {1.0 / ratios.largest:.3g}",
        _within(share, repeats) and spread > 2 * covariance,
        {"missed": share, "trace": trace, "covariance": covariance},
    )


def _worst_miss(setting: Setting, kind: str) -> tuple[float, int]:
    """Return the largest probability of a miss over the allowed one, and the number of populations and levels."""
    worst, count = 0.0, 0
    for losses in _populations(setting):
        m = len(losses)
        for k in range(1, m):
            drawn = losses[np.array(list(itertools.combinations(range(m), k)))]
            gap = np.abs(drawn.mean(1) - losses.mean())
            for level in (0.5, 0.9, 0.99):
                bound = _bound(k, kind, level, m, drawn.std(1))
                worst, count = max(worst, float((gap > bound * (1 + SLACK)).mean()) / (1 - level)), count + 1
    for m, k, ones in ((50, 10, 5), (200, 40, 20), (1000, 100, 2), (2000, 500, 300)):
        hits = np.arange(0, min(k, ones) + 1)
        p = hits / k
        gap = np.abs(p - ones / m)
        for level in (0.5, 0.9, 0.99):
            bound = _bound(k, kind, level, m, np.sqrt(p * (1 - p)))
            chance = float(hypergeom.pmf(hits, m, ones, k)[gap > bound * (1 + SLACK)].sum())
            worst, count = max(worst, chance / (1 - level)), count + 1
    return worst, count


def _populations(setting: Setting) -> list[np.ndarray]:
    ends = [np.array([0.0] * (9 - ones) + [1.0] * ones) for ones in (1, 2, 4)]
    return [*ends, setting.rng.uniform(0, 1, 9), setting.rng.uniform(0, 1, 9) ** 6]


def _bound(k: int, kind: str, level: float, m: int, std: np.ndarray) -> np.ndarray:
    """Return the bound for losses within 0..1 at every standard deviation; "without_range" is a planted fault."""
    if kind == "hoeffding_serfling":
        one = bounds.mean_deviation(k, kind=kind, level=level, population=m, loss_bound=1.0)
        return np.full_like(std, float(one))
    ranged = 0.0 if kind == "without_range" else 1.0
    name = "bernstein_serfling" if kind == "without_range" else kind
    values, place = np.unique(std, return_inverse=True)
    sizes = np.full(len(values), k)
    found = bounds.mean_deviation(sizes, kind=name, level=level, population=m, loss_bound=ranged, std=values)
    return np.asarray(found)[place]


def _drawn_miss(setting: Setting, kind: str, heavy: bool = True) -> tuple[float, int]:
    """Return the share of random orders of 200 losses in which the bound at k = 60 misses, and how many there were."""
    m, k, repeats = 200, 60, max(500, setting.draws)
    losses = setting.rng.uniform(0, 1, m) ** (40 if heavy else 1)
    drawn = np.stack([losses[setting.rng.permutation(m)[:k]] for _ in range(repeats)])
    gap = np.abs(drawn.mean(1) - losses.mean())
    std = drawn.std(1, ddof=1 if kind == "normal" else 0)
    return float((gap > _bound(k, kind, LEVEL, m, std)).mean()), repeats


def _within(missed: float, draws: int) -> bool:
    """Return whether a measured share of misses is what the level allows, up to five standard errors."""
    return missed <= (1 - LEVEL) + 5 * math.sqrt(LEVEL * (1 - LEVEL) / draws)


def _gaussian(setting: Setting, repeats: int) -> tuple[float, float]:
    """Return how far Gaussian steps are off their mean square on quadratics, relatively, and the standard error."""
    P, k, spread = 3, 4, 0.7
    root = setting.rng.standard_normal((P, P))
    D, g, level = root + root.T, setting.rng.standard_normal(P), 0.3
    steps = spread * setting.rng.standard_normal((repeats, P))
    gaps = level + steps @ g + 0.5 * np.einsum("ni,ij,nj->n", steps, D, steps)
    law = mean_square.gaussian_mean_square(
        k, loss_gap=level, gradient_gap=float(np.linalg.norm(g)), hessian_gap_trace=float(np.trace(D)),
        hessian_gap_frobenius=float(np.linalg.norm(D)), spread=spread,
    )  # fmt: skip
    ratio = (gaps / (k + 1)) ** 2 / law
    return float(ratio.mean() - 1.0), float(ratio.std() / math.sqrt(repeats))


def _means(setting: Setting, g: np.ndarray, k: int, repeats: int) -> np.ndarray:
    """Return means of k gradients drawn with replacement."""
    return g[setting.rng.integers(0, len(g), (repeats, k))].mean(1)


CLAIMS = (
    Claim(
        "Variance law",
        "-",
        "nothing",
        "E (L_(k+1) - L_k)^2 = sigma^2/(k(k+1)) at a fixed w; in closed form over Gaussian steps",
        mean_square_law,
    ),
    Claim(
        "Hoeffding-Serfling",
        "-",
        "nothing",
        "|L_k - L_m| <= l_max sqrt(rho ln(2/delta)/(2k)), rho = min(1 - (k-1)/m, (1 - k/m)(1 + 1/k))",
        hoeffding_serfling,
    ),
    Claim(
        "Bernstein-Serfling",
        "-",
        "nothing",
        "|L_k - L_m| <= s sqrt(2 rho ln(10/delta)/k) + (7/3 + 3/sqrt 2) l_max ln(10/delta)/k",
        bernstein_serfling,
    ),
    Claim(
        "Normal interval",
        "-",
        "nothing",
        "|L_k - L_m| <= z s sqrt((1 - k/m)/k), asymptotically",
        normal_approximation,
    ),
    Claim(
        "Matrix Bernstein",
        "-",
        "nothing",
        "P(||mean H_i - H|| >= t) <= 2P exp(-(k t^2/2)/(v + R t/3)); for gradients v = mean |g_i - mean|^2",
        matrix_bernstein,
    ),
)
