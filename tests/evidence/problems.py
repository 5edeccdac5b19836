"""Softmax regressions with known truth, fitted to their optimum by Newton steps of an independent piece of code."""

import numpy as np
from scipy.special import logsumexp, softmax


def fitted(x, y, classes, penalty, steps=60):
    """Return W (C, p) at the optimum of sum CE + penalty/2 |W|^2: dense Newton steps, halved until they help."""
    k, width = x.shape
    eye, w = np.eye(classes), np.zeros(classes * width)

    def value_at(w):
        z = x @ w.reshape(classes, width).T
        return (logsumexp(z, axis=1) - z[np.arange(k), y]).sum() + 0.5 * penalty * w @ w

    value = value_at(w)
    for _ in range(steps):
        p = softmax(x @ w.reshape(classes, width).T, axis=1)
        gradient = np.einsum("kc,ka->ca", p - eye[y], x).ravel() + penalty * w
        if np.abs(gradient).max() < 1e-10:
            break
        bend = np.einsum("kc,cd->kcd", p, eye) - np.einsum("kc,kd->kcd", p, p)
        rows = (bend[:, :, None, :, None] * (x[:, :, None] * x[:, None, :])[:, None, :, None, :]).sum(axis=0)
        hessian = rows.reshape(w.size, w.size) + penalty * np.eye(w.size)
        step, share = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0], 1.0
        while (new := value_at(w - share * step)) > value + 1e-12 and share > 1e-6:
            share /= 2
        w, value = w - share * step, new
    return w.reshape(classes, width)


def drawn(n, seed, *, classes=3, width=4, scale=1.0, truth=0):
    """Return features and labels of a well-specified softmax model."""
    rng = np.random.default_rng([seed, 7])
    w = scale * np.random.default_rng([truth, 1]).normal(size=(classes, width))
    x = np.concatenate([rng.normal(size=(n, width - 1)), np.ones((n, 1))], axis=1)
    p = softmax(x @ w.T, axis=1)
    return x, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def losses(w, x, y):
    return -np.log(softmax(x @ w.T, axis=1)[np.arange(len(y)), y])
