"""Small data and models to train."""

import numpy as np
import torch
from torch import nn


def problem(n, d, classes, seed=0, noise=2.0):
    """Draw features that tell the classes apart only in part, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centers = rng.normal(size=(classes, d))
    inputs = (centers[labels] + noise * rng.normal(size=(n, d))).astype(np.float32)
    return inputs, labels


def small_net(d, classes, seed=0, dropout=0.0):
    """Make a net of two layers, with dropout if asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        return nn.Sequential(nn.Linear(d, 12), nn.LayerNorm(12), nn.GELU(), nn.Dropout(dropout), nn.Linear(12, classes))
