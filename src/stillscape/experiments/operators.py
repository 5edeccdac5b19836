"""Hessians of a trained model at images of the run, and whether there is memory for what is asked of them."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stillscape.curvature import PerSampleHessian

MEMORY_BYTES = 6 * 2**30  # beyond it nothing is begun


def hessians_of(
    suffix: nn.Module, inputs: np.ndarray, labels: np.ndarray, rows: Any, part: str = "full"
) -> PerSampleHessian:
    """Return the operator on some rows' cross-entropy; inputs may be mapped from a file, rows any index."""
    x, y = torch.from_numpy(np.array(inputs[rows])), torch.from_numpy(labels[rows])
    return PerSampleHessian(suffix, F.cross_entropy, x, y, part=part)


def too_large(what: str, num_vectors: int, num_parameters: int, most: int) -> str:
    """Return why something that holds so many float32 vectors is not begun; empty if it fits into `most` bytes.

    >>> too_large("spectra", 100, 2**30, 6 * 2**30)
    'spectra of 1,073,741,824 parameters would take 400 GiB of memory; 6 GiB is the most that is used'
    """
    needed = num_vectors * 4 * num_parameters
    if needed <= most:
        return ""
    return (
        f"{what} of {num_parameters:,} parameters would take {needed / 2**30:.0f} GiB of memory; "
        f"{most / 2**30:.0f} GiB is the most that is used"
    )
