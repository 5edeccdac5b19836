"""A softmax head with bias on two features: the smallest cross-entropy problem that has a minimizer to compute."""

import numpy as np
from jaxtyping import Float, Int

CLASSES = 3
Features = Float[np.ndarray, "n 3"]
Labels = Int[np.ndarray, " n"]
Weights = Float[np.ndarray, " P"]


def problem(rng: np.random.Generator, samples: int) -> tuple[Features, Labels]:
    """Return features with a constant last column, the bias, and labels that overlap, so that a minimizer exists."""
    features = np.concatenate([rng.standard_normal((samples, 2)), np.ones((samples, 1))], 1)
    labels = (rng.uniform(0, CLASSES, samples) + (features[:, 0] > 0)).astype(int) % CLASSES
    return features, labels


def fit(features: Features, labels: Labels) -> Weights:
    """Return the minimizer of the mean cross-entropy by Newton; the last class has logit 0, which fixes the gauge."""
    w = np.zeros(features.shape[1] * (CLASSES - 1))
    for _ in range(30):
        w = w - np.linalg.solve(curvature(w, features).mean(0), gradients(w, features, labels).mean(0))
    return w


def gradients(w: Weights, features: Features, labels: Labels) -> Float[np.ndarray, "n P"]:
    """Return the gradient of each sample's loss, x (x) (p - y)."""
    residual = (_probabilities(w, features) - np.eye(CLASSES)[labels])[:, :-1]
    return (features[:, :, None] * residual[:, None, :]).reshape(len(labels), -1)


def curvature(w: Weights, features: Features) -> Float[np.ndarray, "n P P"]:
    """Return the Hessian of each sample's loss, xx' (x) (diag(p) - pp')."""
    p = _probabilities(w, features)[:, :-1]
    sigma = p[:, :, None] * (np.eye(CLASSES - 1) - p[:, None, :])
    H = np.einsum("na,nb,ncd->nacbd", features, features, sigma)
    return H.reshape(len(features), w.size, w.size)


def _probabilities(w: np.ndarray, features: np.ndarray) -> np.ndarray:
    logits = np.concatenate([features @ w.reshape(features.shape[1], -1), np.zeros((len(features), 1))], 1)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
