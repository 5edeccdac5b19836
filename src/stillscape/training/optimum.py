"""Fit a linear head to the one optimum of its convex objective."""

import math
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg
import torch
from jaxtyping import Float, Int
from scipy.special import log_softmax
from torch import nn

from stillscape.training.losses import Scores, as_scores, losses_of
from stillscape.training.outcome import Fit, TracePoint, thin
from stillscape.training.recipe import Recipe
from stillscape.training.rows import check_classes

TOLERANCE = 1e-8
_ITERATIONS = 300
_POLISHING_STEPS = 50


def fit_head(
    head: nn.Linear,
    inputs: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " k"],
    recipe: Recipe,
    watch: Callable[[int], None] | None = None,
) -> Fit:
    """Fit multinomial logistic regression to its optimum, in float64, and write it into the head.

        minimize  (1/k) sum_i CE(W x_i + b, y_i)  +  l2/(2k) (||W||^2 + ||b||^2)

    The objective is strongly convex, so the optimum is one and finite, also where a class is missing from the rows;
    it depends neither on the head's start nor on a seed. Without a bias in the head, b is left out.

    Solved in coordinates in which Böhning's bound on the Hessian, (1/2k) X'X + (l2/k) I, is the identity (Böhning,
    Multinomial logistic regression algorithm, 1992): by L-BFGS, then Newton steps with conjugate gradients.

    Args:
        head: Linear layer; its weights are overwritten.
        inputs: cached classifier inputs.
        labels: class numbers.
        rows: training rows.
        recipe: only `l2` counts.
        watch: called at zero weights with 0 and after each step of L-BFGS with their number, as the head holds them.

    Returns:
        status "ok" once the norm of the objective's gradient in W and b is at most 1e-8 times max(1, its norm at
        zero).

    Cost: one eigendecomposition of size min(k, d), then about k d C multiplications for each iteration.
    """
    start = time.perf_counter()
    x = np.asarray(inputs[rows], dtype=np.float64)
    y = np.asarray(labels)[rows].astype(np.int64)
    check_classes(torch.from_numpy(y), head.weight.T)
    if not np.isfinite(x).all():
        return Fit("failed", "the cached activations are not finite", 0, 0.0, math.nan, 0.0, "failed")
    if head.bias is not None:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    problem = _Problem(x, y, head.out_features, recipe.l2 / len(rows))

    def put(step: int, weights: np.ndarray) -> None:
        _store(head, weights)
        assert watch is not None
        watch(step)

    weights, trace, passes = problem.solve(put if watch is not None else None)
    norm = float(np.linalg.norm(problem.gradient(weights)))
    reached = norm <= problem.tolerance
    _store(head, weights)
    return Fit(
        status="ok" if reached else "failed",
        reason=""
        if reached
        else f"the objective's gradient is {norm:.1e}, above the tolerance {problem.tolerance:.1e}",
        steps=len(trace),
        epochs=float(passes),
        gradient_norm=float(np.linalg.norm(problem.gradient(weights) - problem.penalty * weights)),
        seconds=time.perf_counter() - start,
        stop="gradient tolerance" if reached else "failed",
        trace=thin(trace),
        penalized_gradient_norm=norm,
        scores=_scores(head, inputs[rows], y) if reached else None,
    )


@torch.no_grad()
def _store(head: nn.Linear, weights: Float[np.ndarray, "C p"]) -> None:
    width = head.in_features
    head.weight.copy_(torch.from_numpy(weights[:, :width]))
    if head.bias is not None:
        head.bias.copy_(torch.from_numpy(weights[:, width]))
    head.eval()


@torch.no_grad()
def _scores(head: nn.Linear, x: Float[np.ndarray, "k d"], y: Int[np.ndarray, " k"]) -> Scores:
    # By the head as it is now, rounded to its own precision, so that they are the stored weights' losses.
    at = head.weight.device
    return as_scores([losses_of(head(torch.from_numpy(x).to(head.weight)), torch.from_numpy(y).to(at))])


class _Problem:
    """Penalized mean cross-entropy of scores X W', with W = Z S V' in whitened coordinates Z.

    Args:
        x: (k, p) inputs, with a column of ones where there is a bias.
        y: (k,) class numbers.
        classes: C.
        penalty: l2/k.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int, penalty: float) -> None:
        self.x, self.y, self.classes, self.penalty = x, y, classes, penalty
        self.targets = np.zeros((len(x), classes))
        self.targets[np.arange(len(x)), y] = 1
        squares, self.basis = _principal_axes(x)
        self.scale = 1 / np.sqrt(squares / (2 * len(x)) + penalty)
        self.white = (x @ self.basis) * self.scale
        self.white_penalty = penalty * self.scale**2
        self.tolerance = TOLERANCE * max(1.0, float(np.linalg.norm(self.gradient(np.zeros((classes, x.shape[1]))))))
        self.passes = 0

    def gradient(self, weights: Float[np.ndarray, "C p"]) -> Float[np.ndarray, "C p"]:
        """Of the penalized objective, in the original coordinates."""
        p = np.exp(log_softmax(self.x @ weights.T, axis=1))
        return (p - self.targets).T @ self.x / len(self.x) + self.penalty * weights

    def solve(
        self, put: Callable[[int, np.ndarray], None] | None = None
    ) -> tuple[Float[np.ndarray, "C p"], list[TracePoint], int]:
        """Weights at the optimum, the history, and the number of passes over the inputs; `put` is shown each step."""
        trace: list[TracePoint] = []
        rank = len(self.scale)

        def note(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            trace.append(TracePoint(step=len(trace), loss=float(intermediate_result.fun), learning_rate=0.0))
            if put is not None:
                put(len(trace), self._back(intermediate_result.x))

        if put is not None:
            put(0, self._back(np.zeros(self.classes * rank)))
        found = scipy.optimize.minimize(
            self._value_and_gradient,
            np.zeros(self.classes * rank),
            jac=True,
            method="L-BFGS-B",
            callback=note,
            options={
                "maxiter": _ITERATIONS,
                "maxcor": 20,
                "ftol": 0.0,
                "gtol": 0.1 * self.tolerance * float(self.scale.min()),
            },
        )
        z = self._polish(found.x.reshape(self.classes, rank))
        return self._back(z), trace, self.passes

    def _back(self, z: np.ndarray) -> Float[np.ndarray, "C p"]:
        """Return the weights in the original coordinates."""
        return (z.reshape(self.classes, -1) * self.scale) @ self.basis.T

    def _value_and_gradient(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        self.passes += 1
        z = flat.reshape(self.classes, -1)
        log_p = log_softmax(self.white @ z.T, axis=1)
        value = -log_p[np.arange(len(self.y)), self.y].mean() + 0.5 * float((self.white_penalty * z**2).sum())
        gradient = (np.exp(log_p) - self.targets).T @ self.white / len(self.x) + self.white_penalty * z
        return float(value), gradient.ravel()

    def _polish(self, z: Float[np.ndarray, "C r"]) -> Float[np.ndarray, "C r"]:
        """Newton steps: L-BFGS stops where the objective's own rounding hides its progress, the gradient goes on."""
        gradient = self._value_and_gradient(z.ravel())[1]
        for _ in range(_POLISHING_STEPS):
            # The gradient in the original coordinates is this one over the scale, turned by the basis.
            if np.linalg.norm(gradient.reshape(z.shape) / self.scale) <= 0.5 * self.tolerance:
                break
            step, _ = scipy.sparse.linalg.cg(self._hessian(z), gradient, rtol=1e-6, maxiter=500)
            z, gradient = self._shortened(z, step.reshape(z.shape), float(np.linalg.norm(gradient)))
        return z

    def _shortened(self, z: np.ndarray, step: np.ndarray, norm: float) -> tuple[np.ndarray, np.ndarray]:
        """Take as much of a Newton step as lowers the gradient's norm, along which that norm falls at first."""
        for share in 0.5 ** np.arange(30):
            trial = z - share * step
            gradient = self._value_and_gradient(trial.ravel())[1]
            if np.linalg.norm(gradient) <= (1 - 0.1 * share) * norm:
                break
        return trial, gradient

    def _hessian(self, z: Float[np.ndarray, "C r"]) -> scipy.sparse.linalg.LinearOperator:
        p = np.exp(log_softmax(self.white @ z.T, axis=1))

        def product(vector: np.ndarray) -> np.ndarray:
            self.passes += 1
            v = vector.reshape(z.shape)
            change = p * (self.white @ v.T)
            change -= p * change.sum(axis=1, keepdims=True)
            return (change.T @ self.white / len(self.x) + self.white_penalty * v).ravel()

        return scipy.sparse.linalg.LinearOperator((z.size, z.size), matvec=product, dtype=np.float64)


def _principal_axes(x: Float[np.ndarray, "k p"]) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "p r"]]:
    """Squared singular values and right singular vectors; axes on which x has nothing hold no weight either."""
    k, p = x.shape
    if k < p:
        _, singular, right = scipy.linalg.svd(x, full_matrices=False)
        return singular**2, right.T
    squares, axes = scipy.linalg.eigh(x.T @ x)
    return np.maximum(squares, 0.0), axes
